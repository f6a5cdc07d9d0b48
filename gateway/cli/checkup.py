"""Examines one remote provider: can it be reached, does it take our key, what does it offer, what does it hold.

The law: loads nothing and costs nothing unless a trial was asked for; whatever an upstream does, the examination ends within
its bound and says one line for each check.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from config.presets import is_loopback
from config.schema import Config, ProviderConfig, split_target
from providers.contract import Account, Banker, Held, Offer, Provider, Puller, Request, Versioned
from providers.errors import ProviderError, UpstreamKeyRefused, UpstreamTimeout, UpstreamUnreachable
from providers.ollama_names import canonical

from .findings import Book
from .trial import TRY_WITHIN_S, Failure, Trial, choose, named
from .words import count_text, printable, size_text

WITHIN_S = 10.0  # for everything but the trial: longer than any upstream needs that is of use
_SHOWN = 5  # names in a line
_WRITTEN_KINDS = ("openai", "anthropic")  # these offer the configured names without asking

_T = TypeVar("_T")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator wants to know."""

    by_name: bool = False  # the provider was named: not finding it is a problem then
    trial: bool = False
    model: str = ""  # the one to try; "": the cheapest to try
    within_s: float = WITHIN_S
    try_within_s: float = TRY_WITHIN_S


class Checkup:
    """One examination; `run` once. The provider stays the caller's."""

    def __init__(self, provider: Provider, config: Config, asked: Asked) -> None:
        self.book = Book(provider.name)
        self._provider = provider
        self._name = provider.name
        self._config: ProviderConfig = config.providers[provider.name]
        self._targets = [
            name
            for model in config.models.values()
            for owner, name in map(split_target, model.targets)
            if owner == self._name
        ]
        self._asked = asked
        self._found_by_us = provider.name in config.discovered and not asked.by_name
        self._deadline_s = 0.0
        self._key_refused = False

    async def run(self) -> None:
        """Fills the book."""
        self._deadline_s = asyncio.get_running_loop().time() + self._asked.within_s
        status = await self._address()
        if status is None:
            return
        offers = await self._catalogue(status)
        if offers is None and self._found_by_us and not self.book.broken and not self._key_refused:
            return
        await self._account_and_key(status, offers)
        self._check_targets(offers or ())
        held = await self._held()
        if self._asked.trial:
            await self._try(offers or (), held)

    async def _within(self, work: Awaitable[_T]) -> _T:
        """Raises: UpstreamTimeout: the time for all checks of this provider is over; what `work` raises."""
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await work
        except TimeoutError:
            raise UpstreamTimeout(
                f"{self._name} did not answer within {self._asked.within_s:g} s", source=self._name
            ) from None

    # address

    async def _address(self) -> int | None:
        """The status of its first answer; None: there was none."""
        url, began_s = self._config.base_url, time.monotonic()
        try:
            status = await self._within(self._knock())
        except ProviderError as error:
            if self._found_by_us and isinstance(error, UpstreamUnreachable | UpstreamTimeout):
                self.book.skipped("address", f"not found here ({url})")
                return None
            if self._found_by_us and self._is_here():
                self.book.skipped("address", f"not found here: something else listens at {url}")
                return None
            self.book.problem("address", f"{url}: {_reason(error)}", self._mend(error))
            for check in ("key", "catalogue"):
                self.book.skipped(check, "not reached")
            return None
        took = _milliseconds(began_s)
        self.book.ok("address", f"{url} answers in {took}{await self._version()}")
        return status

    async def _version(self) -> str:
        """ ", version 0.12.0", where it tells one."""
        if not isinstance(self._provider, Versioned):
            return ""
        try:
            return f", version {printable(await self._within(self._provider.version()))}"
        except ProviderError:  # what is wrong with it is told by the next checks
            return ""

    async def _knock(self) -> int:
        request = Request(
            method=b"GET",
            path=b"/v1/models",
            headers=((b"accept", b"application/json"),),
            body=b"",
            first_byte_s=self._asked.within_s,
        )
        response = await self._provider.send(request)
        response.close()
        return response.status

    def _is_here(self) -> bool:
        return is_loopback(urlsplit(self._config.base_url).hostname or "")

    def _mend(self, error: ProviderError) -> str:
        key, cause = f"providers.{self._name}", error.__cause__
        if "proxy" in error.message:
            return f'correct HTTPS_PROXY or {key}.proxy ("none": no proxy)'
        if isinstance(error, UpstreamTimeout):
            return "is it overloaded or stopped? Restart it"
        match cause:
            case ssl.SSLCertVerificationError():
                return f"set {key}.ca_file to the certificates of whoever signed it"
            case ssl.SSLError():
                return f"does it speak https there? {key}.base_url may have to begin with http://"
            case socket.gaierror() | UnicodeError():
                return f"correct {key}.base_url, or this machine's name resolution"
            case ConnectionRefusedError():
                return f"start it, or correct {key}.base_url"
            case OSError():
                return f"is that host up, and no firewall in between? Else correct {key}.base_url"
            case _:
                return f"correct {key}.base_url: what listens there does not speak HTTP"

    # catalogue

    async def _catalogue(self, status: int) -> Sequence[Offer] | None:
        """What it offers; None: it does not say."""
        if self._config.models and self._config.kind in _WRITTEN_KINDS:
            offers = [Offer(name=name) for name in self._config.models]
            asked = " (its own list is not asked for)" if status != 404 else " (it has no list)"
            self.book.ok("catalogue", f"{count_text(len(offers), 'model')} configured{asked}")
            return offers
        began_s = time.monotonic()
        try:
            offers = await self._within(self._provider.catalogue())
        except UpstreamKeyRefused:
            self._key_refused = True
            self.book.skipped("catalogue", "it is not shown without a right key")
            return None
        except ProviderError as error:
            if self._found_by_us and self._is_here():
                self.book.skipped("catalogue", f"something else listens at {self._config.base_url}: {error.message}")
            else:
                advice = f"is providers.{self._name}.base_url right, and the kind '{self._config.kind}'?"
                self.book.problem("catalogue", error.message, advice)
            return None
        trouble = getattr(self._provider, "trouble", None)  # an old catalogue stands in for it
        if isinstance(trouble, ProviderError):
            text = f"the last one is used, {count_text(len(offers), 'model')}: {trouble.message}"
            self.book.problem("catalogue", text, "try again later")
        elif offers:
            self.book.ok("catalogue", f"{count_text(len(offers), 'model')} in {_milliseconds(began_s)}")
        elif isinstance(self._provider, Puller):
            self.book.ok("catalogue", f"no model yet: `roundhouse pull {self._name}/MODEL` fetches one")
        else:
            self.book.problem(
                "catalogue", "it offers no model", f"name them in providers.{self._name}.models, or loosen its filter"
            )
        return offers

    def _check_targets(self, offers: Sequence[Offer]) -> None:
        """That what the configuration routes to is there."""
        wanted = list(dict.fromkeys((*self._targets, *(self._config.models if self._provider.tagged else ()))))
        if not wanted or not offers:
            return
        there = {offer.name for offer in offers if offer.size_bytes or not self._provider.tagged}
        missing = [name for name in wanted if not self._offered(name, there)]
        if not missing:
            self.book.ok("targets", f"{count_text(len(wanted), 'configured name')} it has")
            return
        names = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
        advice = f"correct the targets, or fetch them: `roundhouse pull {self._name}/{missing[0]}`"
        self.book.problem(
            "targets",
            f"it does not have {names}",
            advice if isinstance(self._provider, Puller) else "correct the targets",
        )

    def _offered(self, name: str, there: set[str]) -> bool:
        stems = (name.removesuffix(suffix) for suffix in self._provider.variants if name.endswith(suffix))
        return (
            name in there
            or (self._provider.tagged and canonical(name) in there)
            or any(stem in there for stem in stems)
        )

    # key and account

    async def _account_and_key(self, status: int, offers: Sequence[Offer] | None) -> None:
        account: Account | None = None
        refused = self._key_refused or status in (401, 403)
        asked = offers is not None and not (self._config.models and self._config.kind in _WRITTEN_KINDS)
        if isinstance(self._provider, Banker):
            try:
                account = await self._within(self._provider.account())
                asked = True
            except UpstreamKeyRefused:
                refused = True
            except ProviderError as error:
                self.book.problem("account", error.message, "try again later")
        has_key = self._config.api_key is not None
        if refused:
            text = "it does not take our key" if has_key else "it wants a key, and none is set"
            self.book.problem("key", text, f"set providers.{self._name}.api_key, or the variable it comes from")
        elif not has_key:
            self.book.skipped("key", "none is set, and none was wanted")
        elif asked or status == 200:
            self.book.ok("key", "accepted")
        else:
            self.book.skipped("key", "nothing that was asked needs it; --try shows whether it is taken")
        if account is not None:
            self._tell(account)

    def _tell(self, account: Account) -> None:
        words: list[str] = []
        if account.usage_usd is not None:
            words.append(f"${account.usage_usd:f} used")
        words.append("no limit" if account.limit_usd is None else f"limit ${account.limit_usd:f}")
        if account.remaining_usd is not None:
            words.append(f"${account.remaining_usd:f} left")
        if account.free_tier:
            words.append("free tier")
        if account.remaining_usd is not None and account.remaining_usd <= 0:
            self.book.problem(
                "account", ", ".join(words), "raise the key's limit there, or top up; free models still answer"
            )
        else:
            self.book.ok("account", ", ".join(words))

    # memory and trial

    async def _held(self) -> Sequence[Held]:
        if self._provider.server is None:
            return ()
        try:
            held = await self._within(self._provider.server.held())
        except ProviderError as error:
            self.book.problem(
                "memory", error.message, "residency cannot tell what is loaded there: update or restart it"
            )
            return ()
        names = [_holding(item) for item in held[:_SHOWN]]
        self.book.ok("memory", ", ".join(names) + (" …" if len(held) > _SHOWN else "") or "nothing is loaded")
        return held

    async def _try(self, offers: Sequence[Offer], held: Sequence[Held]) -> None:
        model = self._asked.model
        choice = named(self._provider, offers, model) if model else choose(self._provider, offers, held)
        if choice is None:
            self.book.skipped("completion", f"it does not offer '{model}'" if model else "it offers nothing that chats")
            return
        trial = Trial(self._provider, self._config, choice.model, self._asked.try_within_s)
        for check, attempt in (("completion", trial.plain), ("stream", trial.streamed)):
            try:
                text = await attempt()
            except Failure as failure:
                self.book.problem(check, f"{choice.model} ({choice.why}): {failure.text}", failure.advice)
            except ProviderError as error:
                self.book.problem(check, f"{choice.model} ({choice.why}): {error.message}", "its own log may say more")
            else:
                self.book.ok(check, f"{text} ({choice.why})" if check == "completion" else text)


def _holding(item: Held) -> str:
    """On which device is residency's to say, which knows this machine's."""
    size = sum(item.footprint.values())
    return f"{item.name} ({size_text(size)})" if size else item.name


def _reason(error: ProviderError) -> str:
    """The transport names the provider first; here it is the heading."""
    return error.message.partition("cannot be reached: ")[2] or error.message


def _milliseconds(began_s: float) -> str:
    return f"{(time.monotonic() - began_s) * 1000:.0f} ms"
