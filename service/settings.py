"""What an installation is: where its data lies, which environments it serves and how it logs.

Owns the form of `firstlight.toml` and of the environment variables that override it. Must not open a connection, make
a file or hold a secret: passwords and keys are named by the files that hold them. Used by app.py and the commands.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from device_sdk.wire import topics
from service.mqtt.port import EVERYWHERE, Role

CONFIG_NAME = "firstlight.toml"
ENV_PREFIX = "FIRSTLIGHT_"
ENV_NESTED = "__"

BrokerKind = Literal["embedded", "mosquitto", "none"]


class SettingsError(Exception):
    """The configuration cannot be used; the text is one line that says where and why."""


def _absolute(path: Path) -> Path:
    return path.expanduser()


def _topic_root(root: str) -> str:
    if not topics.is_root(root):
        raise ValueError(f"one or more topic levels of A-Z a-z 0-9 . _ -, at most {topics.MAX_ROOT_CHARS} characters")
    return root


Port = Annotated[int, Field(ge=1, le=65535)]
AnyPath = Annotated[Path, AfterValidator(_absolute)]
TopicRoot = Annotated[str, AfterValidator(_topic_root)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointSettings(_Part):
    """Where devices connect, as they see it."""

    host: str = Field(min_length=1, max_length=253)
    port: Port
    tls: bool = True


class LinkSettings(_Part):
    """How the service itself reaches one broker. `password_file` holds the password as its first line.

    With broker = "mosquitto" user name and password file are those that were rendered, unless named here.
    """

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    port: Port
    username: str | None = None
    password_file: AnyPath | None = None
    ca_file: AnyPath | None = None  # set: TLS, verified with this CA
    share: str | None = None  # group of a shared subscription, where the broker has them


class WarehouseSettings(EndpointSettings):
    """Where units are staged. `bind`: the address of the warehouse's network to listen on; default: `host`."""

    bind: str | None = Field(default=None, min_length=1, max_length=253)
    staged_life_days: int = Field(default=730, ge=1, le=3650)  # how long what a unit gets there waits for its first use


class EndpointsSettings(_Part):
    bootstrap: EndpointSettings
    warehouse: WarehouseSettings | None = None
    api_key: EndpointSettings | None = None
    x509: EndpointSettings | None = None

    def every(self) -> list[EndpointSettings]:
        return [one for one in (self.bootstrap, self.warehouse, self.api_key, self.x509) if one is not None]


class LinksSettings(_Part):
    bootstrap: LinkSettings
    operational: LinkSettings
    warehouse: LinkSettings | None = None

    def of(self, role: Role) -> LinkSettings:
        """Of a role that this environment has."""
        found = {Role.BOOTSTRAP: self.bootstrap, Role.OPERATIONAL: self.operational, Role.WAREHOUSE: self.warehouse}
        link = found[role]
        assert link is not None
        return link


class MosquittoSettings(_Part):
    """What is rendered for this environment's Mosquittos, beside the ports of endpoints and links."""

    hostnames: tuple[str, ...] = ()  # further names and addresses in the brokers' certificate, beside the endpoints'
    run_as: str | None = None  # the user that a Mosquitto started by root becomes; it gets to read its files
    plugin: AnyPath | None = None  # mosquitto_dynamic_security.so, where it is not at Debian's place
    reload_command: tuple[str, ...] = ()  # makes the operational one read its files again; default: a signal to its pid


class EnvironmentSettings(_Part):
    """One deployment with its own brokers. With `embedded` the service runs them itself, on the endpoints' addresses."""

    broker: BrokerKind
    endpoints: EndpointsSettings
    links: LinksSettings | None = None
    mosquitto: MosquittoSettings = MosquittoSettings()

    @property
    def roles(self) -> tuple[Role, ...]:
        """The brokers that it has."""
        return EVERYWHERE if self.endpoints.warehouse is None else (*EVERYWHERE, Role.WAREHOUSE)

    @model_validator(mode="after")
    def _fits_the_broker(self) -> Self:
        if self.endpoints.api_key is None and self.endpoints.x509 is None:
            raise ValueError("needs endpoints.api_key or endpoints.x509: devices must be able to log in somewhere")
        if self.broker == "embedded":
            if self.links is not None:
                raise ValueError("an embedded broker takes no links: the service runs it")
            if self.endpoints.x509 is not None or self.endpoints.api_key is None:
                raise ValueError("the embedded broker knows API keys only: set endpoints.api_key, not endpoints.x509")
            if any(one.tls for one in self.endpoints.every()):
                raise ValueError("the embedded broker speaks no TLS: set tls = false, and keep it on loopback")
        elif self.links is None:
            raise ValueError(f"broker = {self.broker!r} needs links.bootstrap and links.operational")
        elif (self.links.warehouse is None) != (self.endpoints.warehouse is None):
            raise ValueError("a warehouse needs both endpoints.warehouse and links.warehouse")
        return self


class StorageSettings(_Part):
    path: Path | None = None  # default: firstlight.db in data_dir


class HttpSettings(_Part):
    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65535)  # 0: any free port (it is logged)


class WebSettings(_Part):
    """The HTTP interfaces of things, partners and administrators. Without this section there are none.

    Without certificate and key (PEM files) it listens on loopback only.
    """

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    port: int = Field(default=8443, ge=0, le=65535)  # 0: any free port (it is logged)
    certificate: AnyPath | None = None
    key: AnyPath | None = None
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()  # whose X-Forwarded-For counts
    max_body_bytes: int = Field(default=1024 * 1024, ge=1024)
    rate: float = Field(default=20, gt=0)  # requests a second of one address
    burst: int = Field(default=100, ge=1)
    max_connections: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs both certificate and key, or neither")
        return self


Days = Annotated[int, Field(ge=1, le=36500)]


class HistorySettings(_Part):
    """How long what has happened is kept; older rows are deleted bit by bit."""

    events_days: Days = 90
    commands_days: Days = 90  # since they finished
    audit_days: Days = 400


class CommandSettings(_Part):
    """What operators' commands for many devices need."""

    mass_devices: int = Field(default=1000, ge=1)  # a command for more must say how many at most
    second_person: bool = False  # and another account must resume it
    stop_percent: int = Field(default=90, ge=0, le=100)  # as many refused pause a command of several pages; 0: never


class LogSettings(_Part):
    format: Literal["json", "text"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(BaseSettings):
    """Everything that `firstlight serve` and the commands are told. Paths are absolute once loaded."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_NESTED, extra="forbid", frozen=True, case_sensitive=False
    )

    data_dir: AnyPath = Path("data")
    topic_root: TopicRoot = topics.ROOT  # what every topic begins with; devices must be given the same
    storage: StorageSettings = StorageSettings()
    http: HttpSettings = HttpSettings()
    web: WebSettings | None = None
    log: LogSettings = LogSettings()
    history: HistorySettings = HistorySettings()
    commands: CommandSettings = CommandSettings()
    environments: dict[str, EnvironmentSettings] = Field(min_length=1)
    serve: tuple[str, ...] = ()  # the environments that this process serves; none named: all

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file; nothing else is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @property
    def served(self) -> list[str]:
        return [name for name in self.environments if not self.serve or name in self.serve]

    def serving(self, names: Sequence[str]) -> Settings:
        """The same settings for a process that serves these environments only. Raises SettingsError."""
        for name in (*names, *self.serve):
            if name not in self.environments:
                raise SettingsError(f"no environment {name}; there are {', '.join(self.environments)}")
        return self.model_copy(update={"serve": tuple(names)}) if names else self

    @property
    def database_path(self) -> Path:
        return self.storage.path or self.data_dir / "firstlight.db"

    @property
    def key_file(self) -> Path:
        return self.data_dir / "keys.json"

    @property
    def images_dir(self) -> Path:
        return self.data_dir / "images"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    def ca_dir(self, environment: str) -> Path:
        """Where the CA of one environment lies: `ca.key` (private) and `ca.pem`."""
        return self.data_dir / "ca" / environment


def load_settings(config: Path) -> Settings:
    """The settings of one file with the environment variables over them; relative paths are relative to the file.

    Raises SettingsError when the file is missing, is not TOML, or holds an unknown or wrong key.
    """
    try:
        values = tomllib.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{config} is missing; run `firstlight init` first, or name it with --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config} is not TOML: {error}") from error
    _refuse_unknown_variables(os.environ)
    return make_settings(values, config.parent, source=config.name)


def make_settings(values: Mapping[str, Any], base: Path, *, source: str = CONFIG_NAME) -> Settings:
    """Settings from values already read; `base` is what relative paths are relative to. Raises SettingsError."""
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(f"{source}: {_one_line(error)}") from error
    except ValueError as error:  # pydantic-settings: a variable that is not the JSON it should be
        raise SettingsError(f"{source} or environment: {error}") from error
    return _rooted(settings, base.absolute())


def _rooted(settings: Settings, base: Path) -> Settings:
    data_dir = base / settings.data_dir
    storage = settings.storage
    if storage.path is not None:
        storage = storage.model_copy(update={"path": data_dir / storage.path.expanduser()})
    environments = {
        name: environment.model_copy(
            update={
                "links": None if environment.links is None else _rooted_links(environment.links, base),
                "mosquitto": environment.mosquitto.model_copy(
                    update={"plugin": _under(base, environment.mosquitto.plugin)}
                ),
            }
        )
        for name, environment in settings.environments.items()
    }
    changed = {"data_dir": data_dir, "storage": storage, "environments": environments}
    if settings.web is not None:
        files = {"certificate": _under(base, settings.web.certificate), "key": _under(base, settings.web.key)}
        changed["web"] = settings.web.model_copy(update=files)
    return settings.model_copy(update=changed)


def _rooted_links(links: LinksSettings, base: Path) -> LinksSettings:
    def rooted(link: LinkSettings) -> LinkSettings:
        paths = {"password_file": _under(base, link.password_file), "ca_file": _under(base, link.ca_file)}
        return link.model_copy(update=paths)

    warehouse = None if links.warehouse is None else rooted(links.warehouse)
    return LinksSettings(bootstrap=rooted(links.bootstrap), operational=rooted(links.operational), warehouse=warehouse)


def _under(base: Path, path: Path | None) -> Path | None:
    return None if path is None else base / path


def _refuse_unknown_variables(variables: Mapping[str, str]) -> None:
    """A nested variable that names no section of ours is a slip of the pen, not something to ignore."""
    for name in sorted(variables):
        if name.upper().startswith(ENV_PREFIX) and ENV_NESTED in name:
            section = name[len(ENV_PREFIX) :].split(ENV_NESTED)[0].lower()
            if section not in Settings.model_fields:
                known = ", ".join(sorted(Settings.model_fields))
                raise SettingsError(f"environment variable {name}: no section {section!r}; there are {known}")


def _one_line(error: ValidationError) -> str:
    """The first problem as `where: what`; the others are met one after the other. Values are not repeated."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"]) or "file"
    words = {"extra_forbidden": "unknown key", "missing": "is missing"}
    return f"{where}: {words.get(problem['type'], problem['msg'].removeprefix('Value error, '))}"
