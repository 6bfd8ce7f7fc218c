"""State shared by all requests of a worker: configuration, keys, limits, clients of flows, the store."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from flowise_gateway import __version__
from flowise_gateway.access.file_links import FileLinks
from flowise_gateway.access.keys import ANONYMOUS, LOCAL, Caller, Keys
from flowise_gateway.access.limits import Limits, Subject, Users, day_of
from flowise_gateway.access.models import Models
from flowise_gateway.access.rates import RedisRates
from flowise_gateway.access.wrong_keys import WrongKeys
from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.flowises import Upstream
from flowise_gateway.config.schema import NO_LIMITS, Allowance, ProxyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.conversation.planner import Planner
from flowise_gateway.conversation.sessions import Conversations
from flowise_gateway.flow.errors import ProxyError, StoreUnavailable
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.storage.counts import WatchedCounts, open_counts, shared_calls, shared_slots
from flowise_gateway.storage.protocol import Executor, StoreError
from flowise_gateway.storage.store import WatchedStore, open_store
from flowise_gateway.telemetry.finished import FinishedRequests
from flowise_gateway.telemetry.log import log_request, repeats
from flowise_gateway.telemetry.metrics import Metrics
from flowise_gateway.telemetry.tracing import Tracing, end_span
from flowise_gateway.telemetry.usage import Usage
from flowise_gateway.telemetry.usage_report import Row, UsageReport
from flowise_gateway.web.flowises import FlowClient, FlowClients, Flowise, Flowises, FlowiseState
from flowise_gateway.web.forwarded import TrustedProxies

log = logging.getLogger(__name__)

_STORE_RETRY_SECONDS = 2.0


class Services:
    """State shared by all requests; `config` is the `proxy.yaml` for new requests."""

    def __init__(
        self,
        settings: Settings,
        clients_of: Callable[[Upstream], FlowClients],
        run: Executor,
        metrics: Metrics,
        tracing: Tracing | None = None,
        *,
        needs_key: bool = False,
    ) -> None:
        """Create the services; `run` executes functions that may block on a disk.

        `needs_key`: the server was started with client keys, so it must not admit everyone without them.
        """
        self._needs_key = needs_key or not (settings.is_loopback or settings.proxy_allow_anonymous)
        self.tracing = tracing
        self.settings = settings
        self.metrics = metrics
        self.proxies = TrustedProxies(settings.proxy_trusted_proxies)
        self.finished = FinishedRequests(log_request, metrics.request)
        if tracing is not None:
            self.finished.observers.append(end_span)
        self.config_file = config_file(settings)
        self.config = ProxyConfig()
        self._config_problems: list[str] = []
        self._wrong_keys = WrongKeys()
        self.keys = Keys()
        self._model_limits: dict[str, Allowance] = {}
        self._users = Users()
        self._limits_stored: set[str] = set()
        store = open_store(settings.proxy_store, run)
        self.counts = WatchedCounts(open_counts(store))
        self.limits = Limits(
            settings.workers,
            settings.proxy_max_in_flight,
            RedisRates(call, StoreError) if (call := shared_calls(store)) else None,
            shared_slots=shared_slots(store),
            counts=self.counts,
        )
        self.usage = Usage(self.counts, settings.proxy_usage_days)
        self.finished.observers.append(self.usage.add)
        secret, *old_secrets = [text.encode() for text in settings.proxy_secret] or [b""]
        self.store = WatchedStore(store, _log_lost_store, secret, old_secrets=old_secrets)
        self.store.charge = self._charge_stored
        # Per secret, since the store may get another one if it was unavailable when the worker started.
        self._planner_of = lru_cache(maxsize=1)(self._new_planner)
        self.flowises = Flowises(settings, clients_of, self.store, metrics)
        self.follow_config()
        self._watch()

    def _watch(self) -> None:
        """Add the counters of other components to the metrics."""
        watch, refusals = self.metrics.watch, self.limits.refusals
        watch("requests_in_flight", lambda: self.limits.in_flight)
        watch("store_errors_total", lambda: self.store.failures)
        watch("stores_failing", lambda: self.store.is_failing)
        watch("config_errors", lambda: self.config_error is not None)
        watch("build_info", lambda: 1, __version__)
        watch("limit_refusals_total", lambda: self._wrong_keys.refusals, "wrong_keys")
        for limit in refusals:
            watch("limit_refusals_total", partial(refusals.__getitem__, limit), limit)
        spans = self.tracing.counts if self.tracing else {"exported": 0, "failed": 0}
        for result in spans:
            watch("spans_total", partial(spans.__getitem__, result), result)
        for labels, before in repeats.counts.items():
            # Each forked worker includes the master's own counts.
            watch("log_messages_total", partial(_since, repeats.counts, labels, before), *labels)

    def follow_config(self) -> None:
        """Apply a changed `proxy.yaml`; active requests keep the one with which they started."""
        config = self.config_file.current
        if config is self.config:
            return
        settings = self.settings
        keys = Keys(
            settings.proxy_api_keys,
            config.keys,
            passes_through=settings.flowise_key_passthrough,
            anonymous=LOCAL if settings.is_loopback else ANONYMOUS,
            wrong_keys=self._wrong_keys,
        )
        problems = []
        if keys.is_open and not self.keys.is_open:
            problems.append("it no longer contains a key: the previous keys stay valid until a restart")
        elif keys.is_open and self._needs_key:
            # This happens in a worker that replaces a dead or retired one.
            problems.append("it no longer contains a key: all requests are refused until it does")
            self.keys = Keys([secrets.token_urlsafe()], wrong_keys=self._wrong_keys)
        else:
            self.keys = keys
        problems += self.flowises.follow(config)
        for problem in problems:
            log.error("proxy.yaml is not followed in all: %s", problem)
        self._config_problems = problems
        self.config = config
        self._limits_stored = {key.name for key in config.keys if key.stored_bytes_per_day is not None}
        self._model_limits = {
            model.id: allowance for model in config.models if (allowance := model.allowance) != NO_LIMITS
        }

    @property
    def config_error(self) -> str | None:
        """Why the current file is not applied, or not completely; None if it is."""
        return self.config_file.error or "; ".join(self._config_problems) or None

    def subjects(self, caller: Caller, summary: RequestSummary) -> list[Subject]:
        """The user and the model of a request, if they have limits."""
        found = []
        if caller.per_user is not None:
            found.append(Subject("user", self._users.name(caller.name, summary.user_hash), caller.per_user))
        return found + self._limited(summary.model)

    def _limited(self, model: str) -> list[Subject]:
        allowance = self._model_limits.get(model)
        return [] if allowance is None else [Subject("model", model, allowance)]

    def admit_fallback(self, model: Model, summary: RequestSummary) -> None:
        """Count a run of a fallback in its own limits, too. Raises RateLimited, QuotaExhausted."""
        if subjects := self._limited(model.id):
            summary.charges.append(self.limits.admit_further(subjects, 1).settle)

    def may_store(self, caller: Caller) -> bool:
        """Whether the caller may store more data today; the count is updated once a second."""
        limit = caller.stored_bytes_per_day
        if limit is None:
            return True
        return self.counts.reserve(day_of(time.time()), {}, {f"stored bytes of {caller.name}": limit}) is None

    def _charge_stored(self, owner: str, size: int) -> None:
        if owner in self._limits_stored:
            self.usage.add_number(f"stored bytes of {owner}", size)

    def hashed(self, kind: str, name: str) -> str:
        """The keyed hash of a client's own id for log, limits and usage.

        Without the secret, ids cannot be guessed from it.
        """
        if not name:
            return ""
        text = f"log {kind}\0{name}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.store.secret, text, "sha256")[:8].hex()

    def close(self) -> None:
        """Write the remaining usage and spans before the worker exits."""
        self.usage.write()
        if self.tracing is not None:
            self.tracing.shutdown()

    def used(self, report: UsageReport, user: str) -> list[Row]:
        """The rows of a report, optionally of a single user. Raises StoreUnavailable."""
        self.usage.write()
        try:
            return report.rows(self.counts.read(report.first, report.last), self.hashed("user", user))
        except StoreError as error:
            raise StoreUnavailable(
                f"Usage cannot be read from the store: {error}.", retry_after_seconds=_STORE_RETRY_SECONDS
            ) from None

    def models(self, config: ProxyConfig, caller: Caller) -> Models:
        """The models that a caller may use."""
        seconds = config.discovery.refresh_seconds
        catalogs = {each.upstream.name: each.catalog(caller, seconds) for each in self.flowises}
        return Models(config, catalogs, caller)

    def client(self, model: Model, caller: Caller) -> FlowClient:
        """The client of a model's flow, with the caller's own key if keys are passed through."""
        return self.flowises.client(model.flowise, model.flow, caller.flowise_key)

    def flowise_states(self, config: ProxyConfig, caller: Caller) -> dict[str, FlowiseState]:
        """The states of the Flowises that the caller may use, requested concurrently."""
        usable = [each for each in self.flowises if caller.may_use_flowise(each.upstream.name)]
        states: dict[str, FlowiseState] = {
            each.upstream.name: {"reachable": False, "error": None} for each in usable
        }

        def ask(flowise: Flowise) -> None:
            states[flowise.upstream.name] = flowise.state(caller, config.discovery)

        threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in usable]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return states

    def may_see(self, config: ProxyConfig, caller: Caller) -> Callable[[str], bool]:
        """Whether the caller may see a model's name in the metrics."""
        if not caller.flowises:
            return lambda model: caller.may_use([model])
        # The name does not show which Flowise has the model, but the list of the caller's models does.
        try:
            return {model.id for model in self.models(config, caller).listed()}.__contains__
        except ProxyError:
            return lambda _model: False

    @property
    def planner(self) -> Planner:
        """The planner of runs."""
        return self._planner_of(self.store.secret)

    def _new_planner(self, secret: bytes) -> Planner:
        secrets = (secret, *self.store.old_secrets)
        return Planner(Conversations(self.store, secrets, self.response_seconds))

    @property
    def file_links(self) -> FileLinks:
        """The signer of file links."""
        days = self.settings.proxy_response_ttl_days
        return FileLinks(self.store.secret, days, old_secrets=self.store.old_secrets)

    @property
    def response_seconds(self) -> float:
        """How long conversations and responses are kept."""
        return self.settings.proxy_response_ttl_days * 86400


def _since(counts: Mapping[tuple[str, str], int], labels: tuple[str, str], before: int) -> int:
    return counts[labels] - before


def _log_lost_store(reason: str) -> None:
    log.error("conversations cannot be continued: %s", reason)
