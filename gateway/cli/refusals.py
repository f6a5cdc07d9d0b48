"""How a command fails: one message on stderr, and an exit code that a script can tell apart."""

from __future__ import annotations

import click

from .words import printable


class Failed(click.ClickException):
    """The gateway said no, does not answer, or a fetch did not succeed: exit code 1.

    Args:
        message: what happened and what to do.
        log_lines: of the engine or tool that failed, oldest first; shown below it.
    """

    exit_code = 1

    def __init__(self, message: str, log_lines: tuple[str, ...] = ()) -> None:
        super().__init__(printable(message))
        self.log_lines = log_lines

    def show(self, file: object = None) -> None:
        click.echo(f"roundhouse: {self.message}", err=True)
        for line in self.log_lines:
            click.echo(f"  | {printable(line)}", err=True)


class BadConfiguration(Failed):
    """The configuration cannot be used: exit code 2, as for wrong usage."""

    exit_code = 2
