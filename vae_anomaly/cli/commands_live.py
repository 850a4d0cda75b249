"""The commands of streams, which run until their input ends. As in ``commands``, verbs are imported when a command runs."""

from vae_anomaly.cli import options as opt
from vae_anomaly.cli.commands import is_in_folder, run_verb
from vae_anomaly.config import DEFAULT_MODEL
from vae_anomaly.errors import ConfigError
from vae_anomaly.workflow.requests import FollowRequest


def follow(
    data: opt.StreamData = FollowRequest.data,
    *,
    model: opt.Model = DEFAULT_MODEL,
    tracking_uri: opt.TrackingUri = FollowRequest.tracking_uri,
    output: opt.StreamOutput = FollowRequest.output,
    line_format: opt.LineFormatOption = FollowRequest.format,
    state: opt.StateOption = FollowRequest.state,
    until_end: opt.UntilEnd = FollowRequest.until_end,
    alpha: opt.OtherAlpha = FollowRequest.alpha,
    top: opt.Top = FollowRequest.top,
    threads: opt.Threads = FollowRequest.threads,
    as_json: opt.AsJson = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Score a stream of rows in time line by line, from standard input or a growing file. Each line is answered with one of JSON."""
    options = locals() | {"format": line_format}
    if as_json and output is None:
        raise ConfigError("--json prints one object, and without -o the answers are printed; name a file for them with -o.")
    run_verb(
        "live.follow.follow_stream", "summaries_scoring.follow_summary", options, FollowRequest,
        reports_progress=False, without_pandas=is_in_folder(model),
    )  # fmt: skip
