"""The console script: fewshotjax classify | evaluate | train."""

import typer

from .cli_classify import classify
from .cli_evaluate import evaluate_methods
from .cli_train import train_backbone
from .console import run_app

app = typer.Typer(
    name="fewshotjax",
    help="Recognise classes from a few examples of each (RepMet, Karlinsky et al. 2019).",
    epilog="First step: fewshotjax classify --support examples/ --query photographs/",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(classify)
app.command("evaluate")(evaluate_methods)
app.command("train")(train_backbone)


def main() -> None:
    """Runs the console script."""
    run_app(app, "fewshotjax")
