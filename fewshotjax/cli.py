"""The console script: fewshotjax classify | evaluate | train | train-delta | synthesize."""

import typer

from .cli_classify import classify
from .cli_detect import detect_objects
from .cli_evaluate import evaluate_methods
from .cli_synthesize import synthesize_features, train_delta_encoder
from .cli_train import train_backbone
from .cli_train_detector import train_detector_command
from .console import run_app

app = typer.Typer(
    name="fewshotjax",
    help="Recognise classes, and find objects, from a few examples of each (RepMet, Karlinsky et al. 2019).",
    epilog="First step: fewshotjax classify --support examples/ --query photographs/",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(classify)
app.command("evaluate")(evaluate_methods)
app.command("train")(train_backbone)
app.command("detect")(detect_objects)
app.command("train-detector")(train_detector_command)
app.command("train-delta")(train_delta_encoder)
app.command("synthesize")(synthesize_features)


def main() -> None:
    """Runs the console script."""
    run_app(app, "fewshotjax")
