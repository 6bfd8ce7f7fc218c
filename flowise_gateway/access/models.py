"""Resolves model names (from `proxy.yaml`, discovered flows, flow ids) within a caller's permissions.

With several Flowises, each flow has a name prefixed with its Flowise's, as in `hr/support`. A name without
prefix refers to the first Flowise, in configuration order, that has it and that the caller may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Protocol

from flowise_gateway.access.keys import Caller
from flowise_gateway.config.schema import ModelConfig, ProxyConfig
from flowise_gateway.flow.errors import FlowiseRefused, FlowiseUnavailable, ModelNotFound, ProxyError
from flowise_gateway.flow.model import FLOW_ID, MODEL_ID, Model
from flowise_gateway.flowise.profiles import FlowProfile


class Profiles(Protocol):
    """The part of a catalog that models need."""

    def profiles(self) -> list[FlowProfile]:
        """List all flows."""

    def find(self, name: str) -> FlowProfile | None:
        """Find the listed flow with an id or a slug, possibly a former one; waits for the first list."""

    def by_flow(self, flow: str) -> FlowProfile | None:
        """Find the flow with an id, which may not be in the list."""

    def listed(self, name: str) -> FlowProfile | None:
        """Find the listed flow with an id or a slug; never blocks."""

    def failure(self) -> ProxyError | None:
        """The reason why the flows are unknown, if they are."""


class Models:
    """The models of a configuration and the catalogs of all Flowises that one caller may use."""

    def __init__(self, config: ProxyConfig, catalogs: Mapping[str, Profiles], caller: Caller) -> None:
        """Use the current configuration, and the catalogs by the names of the Flowises."""
        self._config = config
        self._catalogs = catalogs
        self._caller = caller
        self._allowed = [place for place in catalogs if caller.may_use_flowise(place)]
        self._taken = {name for model in config.models for name in (model.id, *model.aliases)}
        self._is_unread = cache(self._has_no_flows)

    def listed(self) -> list[Model]:
        """The caller's models: configured ones, then flows without a configured model.

        Raises FlowiseRefused if Flowise rejects the caller's own key, and the catalog's failure if no flow is
        known, since clients would believe an empty list.
        """
        models = self._listed()
        if not models and not any(self._catalogs[place].profiles() for place in self._allowed):
            for failure in self._failures():
                raise failure
        return models

    def _listed(self) -> list[Model]:
        for place in self._catalogs:  # start reading all first listings before waiting for one
            self._catalogs[place].listed("")
        profiles = [(place, profile) for place in self._allowed for profile in self._profiles(place)]
        self._check_key()
        configured = [self._configured(model) for model in self._config.models]
        taken = {(model.flowise, model.flow) for model in configured}
        found = [self._discovered(*each) for each in profiles if (each[0], each[1].flow) not in taken]
        models = [*configured, *(model for model in found if model.id not in self._taken)]
        return [model for model in models if self._may_use(model)]

    def _may_use(self, model: Model) -> bool:
        return model.flowise in self._allowed and self._caller.may_use(model.names)

    def _failures(self) -> list[ProxyError]:
        if not self._config.discovery.enabled:
            return []
        failures = [self._catalogs[place].failure() for place in self._allowed]
        return [failure for failure in failures if failure is not None]

    def _check_key(self) -> None:
        for failure in self._failures() if self._caller.flowise_key else ():
            if isinstance(failure, FlowiseRefused):
                raise failure

    def resolve(self, name: str) -> Model:
        """The model with this name. Raises the same ModelNotFound for unknown and forbidden models."""
        model = self._named(name) if MODEL_ID.fullmatch(name) else None
        if model is None or not self._may_use(model):
            shown = name if MODEL_ID.fullmatch(name) else "".join(filter(str.isprintable, name[:40]))
            raise ModelNotFound(
                f"The model `{shown}` does not exist or you do not have access to it. "
                "GET /v1/models lists the available models.",
                param="model",
            )
        return model

    def known(self, name: str) -> Model:
        """The model with this name as in the list. Raises ModelNotFound."""
        listed = {model.id: model for model in self._listed()}
        return listed.get(name) or self.resolve(name)

    def _named(self, name: str) -> Model | None:
        for configured in self._config.models:
            if name == configured.id or name in configured.aliases:
                return self._configured(configured)
        place, _, rest = name.partition("/")
        places = [place] if rest and place in self._catalogs else self._allowed
        if len(places) == 1 and places[0] not in self._allowed:
            return None
        name = rest if places is not self._allowed else name
        if FLOW_ID.fullmatch(name):
            flow = name.lower()
            found = self._first(places, flow) if len(self._catalogs) > 1 else None
            # A flow that is not listed belongs to the default Flowise, the first one.
            return self._of_flow(found[0] if found else (places if rest else [*self._catalogs])[0], flow)
        return self._of_slug(places, name) if self._config.discovery.enabled else None

    def _of_slug(self, places: list[str], slug: str) -> Model | None:
        found = self._first(places, slug)
        if found is None:
            self._check_key()
            for place in places:
                failure = self._catalogs[place].failure()
                if isinstance(failure, FlowiseUnavailable):
                    raise failure  # it is unknown whether the model exists; a retry may help
            return None
        place, profile = found
        return self._of_flow(place, profile.flow) if profile.type in self._config.discovery.types else None

    def _first(self, places: list[str], name: str) -> tuple[str, FlowProfile] | None:
        """The first Flowise with a flow of this id or slug.

        Raises FlowiseUnavailable if an earlier Flowise has never been read: it may have the name, too, and
        the request must not go to another Flowise only because that one is unavailable.
        """
        for number, place in enumerate(places):
            if (profile := self._catalogs[place].find(name)) is not None:
                for before in places[:number]:
                    failure = self._catalogs[before].failure()
                    if failure is not None and self._is_unread(before):
                        raise failure
                return place, profile
        return None

    def _has_no_flows(self, place: str) -> bool:
        """Whether the flows of a Flowise have never been read, since it did not answer."""
        catalog = self._catalogs[place]
        return not catalog.profiles() and isinstance(catalog.failure(), FlowiseUnavailable)

    def _of_flow(self, place: str, flow: str) -> Model:
        """The first configured model of this flow that the caller may use, otherwise the flow itself."""
        configured = [self._configured(model) for model in self._config.models if model.flow.lower() == flow]
        configured = [model for model in configured if model.flowise == place]
        usable = [model for model in configured if self._may_use(model)]
        if configured:
            return (usable or configured)[0]
        profile = self._catalogs[place].by_flow(flow) if place in self._allowed else None
        return self._discovered(place, profile or FlowProfile(flow, "", type=""))

    def _profiles(self, place: str) -> list[FlowProfile]:
        discovery = self._config.discovery
        profiles = self._catalogs[place].profiles() if discovery.enabled else []
        return [profile for profile in profiles if profile.type in discovery.types]

    def _discovered(self, place: str, profile: FlowProfile) -> Model:
        slug = "" if self._config.discovery.ids == "uuid" else profile.slug
        return _model(self._id(place, slug, profile), place, profile, self._names(place, profile))

    def _id(self, place: str, slug: str, profile: FlowProfile) -> str:
        """The slug, or the flow's id, without a prefix if no other Flowise has it."""
        name = slug or profile.flow
        places = [*self._catalogs]
        before = places[: places.index(place)]
        others = [self._catalogs[other] for other in places if other != place]
        is_alone = not any(catalog.listed(name) for catalog in others)
        if is_alone and not any(self._is_unread(each) or self._catalogs[each].find(name) for each in before):
            return name
        qualified = f"{place}/{name}"
        return qualified if MODEL_ID.fullmatch(qualified) else f"{place}/{profile.flow}"

    def _names(self, place: str, profile: FlowProfile) -> frozenset[str]:
        """The names of a flow: its id and slugs, without a prefix if they refer to it for this caller."""
        discovery = self._config.discovery
        is_found = discovery.enabled and profile.type in discovery.types
        slugs = {profile.slug, profile.first_slug} - {""} if is_found else set()
        names = {f"{place}/{name}" for name in (profile.flow, *slugs)}
        before = self._allowed[: self._allowed.index(place)] if place in self._allowed else self._allowed
        alone = {profile.flow, *slugs - self._taken}
        return frozenset(names | {n for n in alone if not any(self._catalogs[b].find(n) for b in before)})

    def _configured(self, config: ModelConfig) -> Model:
        flow = config.flow.lower()
        place = config.flowise or self._place_of(flow)
        catalog = self._catalogs.get(place) if place in self._allowed else None
        profile = catalog.by_flow(flow) if catalog else None
        profile = profile or FlowProfile(flow, "", type="")
        names = self._names(place, profile) | {config.id, *config.aliases}
        model = _model(config.id, place, profile, names)
        return replace(
            model,
            name=config.name or model.name,
            description=config.description,
            request_timeout=config.request_timeout,
            fallback=config.fallback,
            history=config.history,
            system=config.system,
            steps=config.steps,
            sources=config.sources,
            usage=config.usage,
            tools=config.tools,
        )

    def _place_of(self, flow: str) -> str:
        """The Flowise that lists a flow, otherwise the default one; the same for every caller.

        An earlier Flowise that has never been read may have the flow, too. The flow then belongs to that one,
        and runs fail until it answers, so that no request goes to another Flowise meanwhile.
        """
        default = next(iter(self._catalogs))
        if len(self._catalogs) == 1:
            return default
        unread = ""
        for place, catalog in self._catalogs.items():
            if catalog.find(flow):
                return unread or place
            unread = unread or (place if self._is_unread(place) else "")
        return default


def _model(model_id: str, place: str, profile: FlowProfile, names: frozenset[str]) -> Model:
    return Model(
        model_id,
        profile.flow,
        profile.name or model_id,
        created=profile.created,
        type=profile.type,
        names=names,
        streams=profile.streams,
        takes_images=profile.takes_images,
        takes_files=profile.takes_files,
        takes_audio=profile.takes_audio,
        has_memory=profile.has_memory,
        chains_models=profile.chains_models,
        inputs=profile.inputs,
        flowise=place,
    )
