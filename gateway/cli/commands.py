"""The group of all commands. The law: nothing of a command is imported before it is called, not even for the list."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click
import msgspec

from gateway import __version__


class Row(msgspec.Struct, frozen=True):
    """Where a command is found: an attribute of a module of this package, named as the command."""

    module: str
    summary: str


COMMANDS: Mapping[str, Row] = {
    "serve": Row("serve", "Start the gateway and serve until a signal comes."),
    "check": Row("check", "Say whether the configuration can be used."),
    "models": Row("models", "List what may be asked for, and where it stands."),
    "ps": Row("ps", "Show what is in memory, who waits, and what is broken."),
    "load": Row("operate", "Bring a model into memory."),
    "unload": Row("operate", "Take a model out of memory."),
    "pin": Row("operate", "Keep a model from being evicted."),
    "unpin": Row("operate", "Let a model be evicted again."),
    "pull": Row("pull", "Fetch models, and print where each is."),
    "keys": Row("keys", "Make, list and take back keys for this gateway's callers."),
    "tenants": Row("tenants", "Make, list and delete tenants."),
    "usage": Row("usage", "Show who used what, and what it cost."),
    "rm": Row("remove", "Delete models from a provider's own disk."),
    "doctor": Row("doctor", "Check this machine and every provider, and say what to do."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        command = getattr(import_module(f"gateway.cli.{row.module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="roundhouse", message="%(prog)s %(version)s")
def roundhouse() -> None:
    """One OpenAI-compatible address in front of every model you can reach.

    Roundhouse starts engines when a model is asked for, keeps them under one memory budget, and evicts the least recently
    used when another needs the room.

    \b
    The first time:
      roundhouse pull      fetch a small model
      roundhouse serve     serve it on http://127.0.0.1:8080/v1
      roundhouse ps        see what is in memory, from another terminal

    Exit codes: 0 done · 1 the gateway said no or does not answer, or something is wrong · 2 wrong usage or configuration ·
    130 interrupted.
    """
