"""Settings of the ca process."""

from __future__ import annotations

import math

from services.kit.lifecycle.settings import ProcessSettings
from services.kit.model.states import Availability


class CaSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the ca is told by its supervisor."""

    issue_timeout_s: float = 5.0
    """Longest time for one issuance, the transaction included."""
    certificate_validity_max_s: float = math.inf
    """No certificate lives longer, whatever the cluster's setting says."""
    availability: Availability = Availability.ACTIVE
    """Of the first node of a new cluster; every other node says it when it joins."""
