import json
from dataclasses import asdict

from pydantic import TypeAdapter

from vae_anomaly.evaluation.results import Comparison, FalseAlarms, Interval, Intervals, LabelFound, Quality, Ranking


def test_a_quality_survives_json_as_a_resumed_fit_needs_it() -> None:
    interval = Interval(low=0.1, high=0.9)
    quality = Quality(
        normal_rows=10,
        anomalous_rows=3,
        auroc=0.9,
        average_precision=0.8,
        precision=None,
        recall=2 / 3,
        f1=0.1 + 0.2,
        false_alarms=FalseAlarms(rows=10, rate=0.1, low=0.0025, high=0.445),
        intervals=Intervals(auroc=interval, average_precision=interval, recall=interval, precision=None, f1=interval),
        by_label=(LabelFound(label="leak", rows=3, flagged=2),),
        comparison=Comparison(rankings=(Ranking(name="PCA", auroc=0.5, average_precision=0.1),), peer_rows=5, test_rows=13, words="w"),
    )
    stored = json.loads(json.dumps(asdict(quality)))
    assert TypeAdapter(Quality).validate_python(stored) == quality
