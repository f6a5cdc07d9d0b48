"""`roundhouse` and `python -m gateway`: the command line's entry, and the one place that turns its end into an exit code.

The law: what decides whether `serve` is started anew comes before everything that takes time to import.
"""

from __future__ import annotations

import os
import sys

from gateway.server.memory import forget, started_anew

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main() -> None:
    """Run the command in sys.argv and exit: 0 done, 1 refused, 2 wrong usage or configuration, 130 interrupted."""
    if sys.argv[1:2] == ["serve"] and (environ := started_anew(os.environ, sys.platform)) is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - ourselves, as we were called
    forget(os.environ)
    _run()


def _run() -> None:
    import io  # noqa: PLC0415 - not before the above

    import click  # noqa: PLC0415 - as above

    from gateway.cli.commands import roundhouse  # noqa: PLC0415 - as above

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show must not end the command
    try:
        code = roundhouse.main(prog_name="roundhouse", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
