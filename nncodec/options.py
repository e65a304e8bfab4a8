"""Options that commands over many files share, and help pages in sections.

Knows click; what the options lead to is the commands'.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

FILES, PICTURE, MACHINE, OTHER = "Files", "Picture", "Machine", "Other"
"""Sections of a help page, in this order."""


class Option(click.Option):
    """An option that says in which section of the help page it stands."""

    def __init__(self, *arguments: Any, section: str = OTHER, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.section = section

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What follows the help text in brackets; the texts themselves say the ranges."""
        return {key: value for key, value in super().get_help_extra(ctx).items() if key != "range"}


class Number(click.FloatRange):
    """A positive number up to `most`; not NaN, which a FloatRange lets through."""

    def __init__(self, most: float = 1e9, max_open: bool = False) -> None:
        super().__init__(0, most, min_open=True, max_open=max_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class Command(click.Command):
    """A command whose help page has a section for each kind of option, and examples as they were typed."""

    def __init__(self, *arguments: Any, examples: str = "", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", OTHER), []).append(record)
        for name in sorted(sections, key=[FILES, PICTURE, MACHINE, OTHER].index):
            with formatter.section(name):
                formatter.write_dl(sections[name])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._examples:
            with formatter.section("Examples"):
                for line in self._examples.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def option(*names: str, section: str, **attributes: Any) -> Callable[[Any], Any]:
    """`click.option` in a section of the help page."""
    return click.option(*names, cls=Option, section=section, **attributes)


@dataclass(frozen=True)
class Files:
    """What the file options of one call say; see `nncodec.batch.run.Options`."""

    inputs: tuple[Path, ...]
    output: str | None
    recursive: bool
    keep_suffix: bool
    jobs: int
    skip_existing: bool
    force: bool
    manifest: Path | None
    shard: str | None


def files(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the inputs and file options; it gets them as its keyword argument `files`."""

    def command(**attributes: Any) -> Any:
        own = {name: attributes.pop(name) for name in Files.__annotations__}
        if own["force"] and own["skip_existing"]:
            raise click.UsageError("give only one of --force and --skip-existing")
        return function(files=Files(**own), **attributes)

    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for decorate in reversed(_FILES):
        command = decorate(command)
    return command


_FILES: list[Callable[[Any], Any]] = [
    click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)),
    option("-o", "--output", section=FILES, metavar="PATH", help="File, folder (or/), or - for stdout."),
    option("-r", "--recursive", section=FILES, is_flag=True, help="Take folders, with all below them."),
    option("-f", "--force", section=FILES, is_flag=True, help="Overwrite files that exist."),
    option("--skip-existing", section=FILES, is_flag=True, help="Pass over inputs whose output exists."),
    option("--keep-suffix", section=FILES, is_flag=True, help="Put the new suffix behind the old one."),
    option("--manifest", section=FILES, type=click.Path(path_type=Path, dir_okay=False),
           help="Add a JSON line a file here; what is done in it already is not done again."),
    option("--shard", section=FILES, metavar="I/N", help="Do the Ith of N parts of the inputs, 1/N to N/N."),
    option("-j", "--jobs", section=MACHINE, metavar="N", type=click.IntRange(1), default=1,
           help="Files worked on at the same time. [default: 1]"),
]  # fmt: skip

device = option(
    "--device", section=MACHINE, metavar="NAME", help="cpu, cuda, cuda:1, ... [default: CUDA if there is one]"
)
threads = option("--threads", section=MACHINE, metavar="N", type=click.IntRange(1),
                 help="CPU threads a file. [default: all, shared by --jobs]")  # fmt: skip


def set_threads(count: int | None, jobs: int = 1) -> None:
    """Tell torch how many threads each file gets: `count`, or the machine's shared by `jobs`."""
    import torch

    if count or jobs > 1:
        torch.set_num_threads(count or max(1, _cores() // jobs))
    # Threads set and restore this around their work; where it is off throughout they cannot disturb each other.
    torch.backends.cudnn.allow_tf32 = False


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
