"""`roundhouse doctor`: what is wrong on this machine and with each provider, and how to mend it. Needs no running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import msgspec

from config.load import ConfigError
from config.schema import ENGINE_KINDS, Config
from gateway import assembly
from providers.contract import EngineSpec
from providers.errors import ProviderError

from . import show, surroundings
from .checkup import Asked, Checkup
from .findings import Book, Finding, lines, without_secrets
from .refusals import BadConfiguration
from .settings import configuration, with_config
from .upstreams import built
from .words import count_text

Specs = Mapping[str, Mapping[str, EngineSpec]]


@click.command()
@click.argument("providers", nargs=-1, metavar="[PROVIDER]...")
@click.option(
    "--try", "trial", is_flag=True, help="Also a tiny completion of each: it may load a model or cost something."
)
@click.option("--model", metavar="NAME", default="", help="With --try: the model to try, where a provider offers it.")
@click.option("--json", "as_json", is_flag=True, help="A list of findings: subject, check, state, text, advice.")
@with_config
def doctor(providers: tuple[str, ...], trial: bool, model: str, as_json: bool, config_path: Path | None) -> None:
    """Check this machine and every provider, and say what to do.

    One line for each check: ok, problem, or skipped. Under a problem stands how to mend it. With names only those
    providers are checked. Loads nothing and costs nothing without --try, which takes the model that is in memory, free, the
    smallest or the cheapest, and says which. What is looked for without being configured and does not answer is no problem.

    Exit code 0 without a problem, 1 with one.
    """
    if model and not trial:
        raise click.UsageError("--model says which model --try takes: give --try, too")
    config = configuration(config_path)
    try:
        models = assembly.models_of(config)
        specs = assembly.specs_of(config, models)
        assembly.catalog_of(config, models, 0)
    except (ConfigError, ProviderError) as error:
        raise BadConfiguration(str(error)) from None
    unknown = [name for name in providers if name not in config.providers]
    if unknown:
        raise click.UsageError(f"no provider '{unknown[0]}'; there are: {', '.join(config.providers)}")
    asked = Asked(by_name=bool(providers), trial=trial, model=model)
    with show.waiting("looking", None):
        findings = asyncio.run(examine(config, specs, providers, asked))
    if as_json:
        click.echo(msgspec.json.encode(findings))
    else:
        for line in lines(findings, _titles(config)):
            click.echo(line)
        problems = sum(finding.state == "problem" for finding in findings)
        click.echo(f"\n{count_text(problems, 'problem')}" if problems else "\nno problems")
    if any(finding.state == "problem" for finding in findings):
        click.get_current_context().exit(1)


async def examine(config: Config, specs: Specs, names: Sequence[str], asked: Asked) -> list[Finding]:
    """All findings, free of secrets, in the configuration's order. Everything is asked at the same time.

    Args:
        names: of the providers; none: all of them, and this machine.
    """
    chosen = [name for name in config.providers if name in names] if names else list(config.providers)
    remote = [name for name in chosen if config.providers[name].kind not in ENGINE_KINDS]
    books = [_engine_book(name) for name in chosen if name not in remote] if names else []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_provider(config, name, asked)) for name in remote]
        if not names:
            tasks.insert(0, group.create_task(surroundings.examine(config, specs)))
    books += [task.result() for task in tasks]
    return without_secrets((finding for book in books for finding in book.findings), config)


def _engine_book(name: str) -> Book:
    book = Book(name)
    book.skipped("engines", "it starts engines on this machine: `roundhouse doctor` without names looks at those")
    return book


async def _provider(config: Config, name: str, asked: Asked) -> Book:
    try:
        provider = built(config, name)
    except ValueError as error:
        book = Book(name)
        book.problem("address", str(error), "correct the configuration")
        return book
    checkup = Checkup(provider, config, asked)
    try:
        await checkup.run()
    finally:
        await provider.aclose()
    return checkup.book


def _titles(config: Config) -> dict[str, str]:
    where = config.path or "no configuration file, built-in defaults"
    titles = {surroundings.SUBJECT: f"{surroundings.SUBJECT} ({where})"}
    for name, provider in config.providers.items():
        found = ", looked for" if name in config.discovered else ""
        titles[name] = f"{name} ({provider.kind}{found})"
    return titles
