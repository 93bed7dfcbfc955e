from tgi_server.telemetry.metrics import Metrics


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().splitlines()


def test_nothing_is_shown_before_its_first_update() -> None:
    assert Metrics(1000, 2000).render() == ""


def test_counters_and_gauges() -> None:
    metrics = Metrics(1000, 2000)
    metrics.counter("tgi_request_failure", err="validation")
    metrics.counter("tgi_request_failure", err="validation")
    metrics.counter("tgi_request_failure", 3, err='a "quoted"\\ one\n')
    metrics.gauge("tgi_queue_size", 7)
    metrics.gauge("tgi_queue_size", 2.5)
    assert lines(metrics) == [
        "# TYPE tgi_request_failure counter",
        'tgi_request_failure{err="validation"} 2',
        'tgi_request_failure{err="a \\"quoted\\"\\\\ one\\n"} 3',
        "# TYPE tgi_queue_size gauge",
        "tgi_queue_size 2.5",
    ]


def test_histogram_counts_are_cumulative_and_bounds_inclusive() -> None:
    metrics = Metrics(1000, 2000)
    for length in (10, 11, 5000):
        metrics.observe("tgi_request_input_length", length)
    text = lines(metrics)
    assert text[0] == "# TYPE tgi_request_input_length histogram"
    assert text[1] == 'tgi_request_input_length_bucket{le="10"} 1'
    assert text[2] == 'tgi_request_input_length_bucket{le="20"} 2'
    assert text[100] == 'tgi_request_input_length_bucket{le="1000"} 2'
    assert text[101:] == [
        'tgi_request_input_length_bucket{le="+Inf"} 3',
        "tgi_request_input_length_sum 5021",
        "tgi_request_input_length_count 3",
    ]


def test_buckets_follow_the_name() -> None:
    metrics = Metrics(1000, 2000)
    metrics.observe("tgi_batch_forward_duration", 0.5, method="decode")
    metrics.observe("tgi_batch_next_size", 4)
    metrics.observe("tgi_request_generated_tokens", 4)
    bounds: dict[str, list[float]] = {}
    for line in lines(metrics):
        if "_bucket" in line:
            bound = line.split('le="')[1].split('"')[0]
            bounds.setdefault(line.split("_bucket")[0], []).append(float(bound))
    durations = bounds["tgi_batch_forward_duration"]
    assert len(durations) == 36 and round(durations[0], 8) == 0.00015 and 145 < durations[34] < 146
    assert bounds["tgi_batch_next_size"][:2] == [1, 2] and bounds["tgi_batch_next_size"][-2] == 1024
    assert bounds["tgi_request_generated_tokens"][0] == 20 and bounds["tgi_request_generated_tokens"][99] == 2000
    assert 'tgi_batch_forward_duration_count{method="decode"} 1' in lines(metrics)
