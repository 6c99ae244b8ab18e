"""Which addresses of the networks are free: the allocator's book, read from the picture and kept by its changes.

Addresses are dealt one after the other and come round again at the end of the range, so that one that was given back rests for as long as
may be. The book can be begun anew at any moment: what is held is written in the services and tasks themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from services.dispatcher.core.picture import Picture
from services.kit.model.ids import NetworkId
from services.kit.model.objects import Network, NetworkAddresses, Object, Service, Task
from services.kit.model.subnets import DealtRange, address_text, dealt_range
from services.kit.state.addresses import held_by


@dataclass(slots=True)
class _Range:
    """One range of a network and the next number to try."""

    dealt: DealtRange
    next: int
    taken: int = 0
    """How many of its addresses are held."""


@dataclass(slots=True)
class _Book:
    """One network."""

    ranges: list[_Range]
    held: dict[tuple[int, int], str] = field(default_factory=dict)
    """Who holds an address (family and number)."""


class Leases:
    """Free and held addresses of all networks."""

    def __init__(self) -> None:
        self._books: dict[NetworkId, _Book] = {}
        self._promised: dict[str, dict[NetworkId, NetworkAddresses]] = {}
        """What was dealt to holders that do not show it yet; asked again, they get the same."""

    def begin(self, view: Picture) -> None:
        """Forget everything and read the picture."""
        self._promised = {}
        self._books = {network.id: _new_book(network) for network in view.networks.values()}
        for service in view.services.values():
            self._add(service.id, held_by(service))
        for task in view.tasks.values():
            if task.networks:
                self._add(task.id, held_by(task))

    def notice_network(self, old: Object | None, new: Object | None) -> None:
        """A network came or went."""
        if isinstance(new, Network):
            if new.id not in self._books:
                self._books[new.id] = _new_book(new)
        elif isinstance(old, Network):
            self._books.pop(old.id, None)

    def notice(self, old: Service | Task | None, new: Service | Task | None) -> bool:
        """A service or a task changed; True when it gave an address back."""
        before = () if old is None else held_by(old)
        after = () if new is None else held_by(new)
        holder = new.id if new is not None else old.id if old is not None else ""
        promised = self._promised.get(holder) if self._promised else None
        if promised is not None and (after or new is None or new.spec_version != (old or new).spec_version):
            del self._promised[holder]
            before = (*before, *promised.values())
        if before == after:
            return False
        given_back = self._discard(holder, (each for each in before if each not in after))
        self._add(holder, after)
        return given_back

    def deal(self, network: NetworkId, holder: str) -> NetworkAddresses | None:
        """Give a holder an address of each family that the network has, None when one of them has run out."""
        book = self._books.get(network)
        if book is None:
            return None
        promised = self._promised.get(holder, {}).get(network)
        if promised is not None:
            return promised
        found: list[tuple[int, int]] = []
        for version in sorted({each.dealt.version for each in book.ranges}):
            number = next(_free(book, version), None)
            if number is None:
                return None
            found.append((version, number))
        for key in found:
            self._take(book, key, holder)
        dealt = NetworkAddresses(network_id=network, addresses=tuple(address_text(*key) for key in found))
        self._promised.setdefault(holder, {})[network] = dealt
        return dealt

    def take_back(self, holder: str) -> None:
        """What was promised to a holder is not used after all."""
        self._discard(holder, self._promised.pop(holder, {}).values())

    def concerns(self, holder: Task) -> bool:
        """Tell whether a change of a task may be one of addresses; quick, as most tasks have none."""
        return bool(holder.networks) or (bool(self._promised) and holder.id in self._promised)

    def free(self, network: NetworkId) -> int:
        """Return how many holders more the network has addresses for."""
        book = self._books.get(network)
        if book is None:
            return 0
        left: dict[int, int] = {}
        for each in book.ranges:
            left[each.dealt.version] = left.get(each.dealt.version, 0) + each.dealt.size - each.taken
        return max(0, min(left.values(), default=0))

    def check(self) -> None:
        """Assert that the counts say what the books say."""
        for network, book in self._books.items():
            for each in book.ranges:
                count = sum(_is_dealt_from(each.dealt, key) for key in book.held)
                assert each.taken == count, f"{network}: {each.taken} addresses counted, {count} are held"

    def _add(self, holder: str, held: Iterable[NetworkAddresses]) -> None:
        for book, key in self._places(held):
            if key not in book.held:
                self._take(book, key, holder)
            else:
                book.held[key] = holder

    def _take(self, book: _Book, key: tuple[int, int], holder: str) -> None:
        book.held[key] = holder
        for each in book.ranges:
            if _is_dealt_from(each.dealt, key):
                each.taken += 1
                each.next = key[1] + 1

    def _discard(self, holder: str, held: Iterable[NetworkAddresses]) -> bool:
        given_back = False
        for book, key in self._places(held):
            if book.held.get(key) == holder:
                del book.held[key]
                given_back = True
                for each in book.ranges:
                    each.taken -= _is_dealt_from(each.dealt, key)
        return given_back

    def _places(self, held: Iterable[NetworkAddresses]) -> Iterator[tuple[_Book, tuple[int, int]]]:
        for each in held:
            book = self._books.get(each.network_id)
            if book is not None:
                for text in each.addresses:
                    address = ip_address(text)
                    yield book, (address.version, int(address))


def _new_book(network: Network) -> _Book:
    ranges = [dealt_range(config) for config in network.ipam]
    return _Book(ranges=[_Range(dealt=each, next=each.first) for each in ranges])


def _is_dealt_from(dealt: DealtRange, key: tuple[int, int]) -> bool:
    version, number = key
    return version == dealt.version and dealt.first <= number <= dealt.last and number not in dealt.reserved


def _free(book: _Book, version: int) -> Iterator[int]:
    """Yield the free numbers of a family, range after range, each from where it was left."""
    for each in book.ranges:
        dealt = each.dealt
        if dealt.version != version or each.taken >= dealt.size:
            continue
        start = each.next if dealt.first <= each.next <= dealt.last else dealt.first
        for number in _round(start, dealt):
            if number not in dealt.reserved and (version, number) not in book.held:
                yield number


def _round(start: int, dealt: DealtRange) -> Iterator[int]:
    yield from range(start, dealt.last + 1)
    yield from range(dealt.first, start)
