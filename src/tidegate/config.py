"""Configuration: one frozen object, from a TOML file, the environment, and secret files.

The environment wins over the file. `TIDEGATE_HTTP__PORT=8081` is `[http] port = 8081`. Secrets
are never values here: settings that end in `_file` name the file that holds one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from tidegate.edge.http.settings import Settings as HttpSettings
from tidegate.identity.settings import Settings as IdentitySettings
from tidegate.observability.settings import Settings as LogSettings
from tidegate.principals.settings import Settings as PrincipalSettings
from tidegate.sessions.settings import Settings as SessionSettings
from tidegate.store.settings import Settings as NatsSettings
from tidegate.upstream.settings import Settings as UpstreamSettings

# Names the file; every other variable with the prefix is a setting.
CONFIG_VARIABLE = "TIDEGATE_CONFIG"


class ConfigError(Exception):
    """The configuration cannot be used; the message names each wrong setting."""


class StopSettings(BaseModel):
    """How a replica stops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drain_delay_s: float = Field(
        5.0, ge=0, description="Keep serving this long after /ready has turned 503."
    )
    finish_within_s: float = Field(
        20.0, ge=1, description="Requests in flight get this long to finish."
    )


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="TIDEGATE_", env_nested_delimiter="__"
    )

    nats: NatsSettings = NatsSettings()
    http: HttpSettings = HttpSettings()
    identity: IdentitySettings = IdentitySettings()
    sessions: SessionSettings = SessionSettings()
    principals: PrincipalSettings = PrincipalSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    log: LogSettings = LogSettings()
    stop: StopSettings = StopSettings()


def load(file: Path | None) -> Settings:
    """Reads the configuration. Raises ConfigError."""
    if file is not None and not file.is_file():
        raise ConfigError(f"{file}: there is no such file")

    unknown = _unknown_variables(os.environ)
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: there is no such setting")

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            toml = TomlConfigSettingsSource(settings_cls, file)
            return (env_settings, toml)

    try:
        return FromFile()
    except ValidationError as exc:
        wrong = "; ".join(
            f"{'.'.join(map(str, error['loc'])) or 'settings'}: {error['msg']}"
            for error in exc.errors(include_input=False, include_url=False)
        )
        raise ConfigError(wrong) from None
    except SettingsError as exc:
        # It names the setting; what it was caused by quotes the value.
        raise ConfigError(str(exc)) from None
    except (ValueError, OSError) as exc:
        raise ConfigError(f"{file}: {exc}") from None


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: most likely typing errors."""
    prefix = "TIDEGATE_"
    return sorted(
        name
        for name in environment
        if name.upper().startswith(prefix)
        and name.upper() != CONFIG_VARIABLE
        and name[len(prefix) :].split("__")[0].lower() not in Settings.model_fields
    )
