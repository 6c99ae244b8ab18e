"""Settings of the web process."""

from __future__ import annotations

from pathlib import Path

from services.kit.lifecycle.settings import ProcessSettings


class WebSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the web process is told by its supervisor."""

    listen_http: str = ""
    """Addresses with commas between them: ``unix:///path``, or ``host:port``."""
    listen_control_api: str = ""
    """The node's control socket; ``control.sock`` in the state directory when not given."""
    http_tls_dir: str = ""
    """Directory with ca.pem, cert.pem and key.pem: TCP addresses then speak TLS with whoever has a certificate of that ca, and trust them."""
    http_token_file: str = ""
    """File with the token that lets TCP clients without a certificate change things; without it they only read."""
    control_timeout_s: float = 10.0
    """How long a request tries to be answered by the swarm."""

    @property
    def control_socket(self) -> str:
        """Where users are served."""
        return self.listen_control_api or str(self.state_dir / "control.sock")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The single addresses."""
        return tuple(part.strip() for part in self.listen_http.split(",") if part.strip())

    @property
    def token_file(self) -> Path | None:
        """The token's file, if there is one."""
        return Path(self.http_token_file) if self.http_token_file else None
