"""The engine's counts agree with its log, whatever happens to the requests."""

import time

from tests.simulator.conftest import StartEngine

NAME = 'model_name="simulated"'


def test_totals_under_vllms_names_equal_the_truth_log(start: StartEngine) -> None:
    client = start(ttft_s=0.01, prefill_s_per_token=0.0, itl_s=0.002, output_tokens_mean=8.0, kv_cache_tokens=1000)
    for i in range(6):
        client.chat(f"prompt {i}")
    client.chat("cut", more={"max_tokens": 2})
    client.chat("broken", fault="early_close", more={"max_tokens": 4, "ignore_eos": True})
    client.chat("refused", fault="http_500")
    rows, metrics = client.truth(9), client.metrics()
    answered = [row for row in rows if row["finish"] in ("stop", "length")]
    first_ns = [row["first_write_ns"] - row["received_ns"] for row in rows if row["output_tokens"]]
    itl_ns = [row["last_write_ns"] - row["first_write_ns"] for row in rows if row["output_tokens"]]

    assert metrics[f"vllm:generation_tokens_total{{{NAME}}}"] == sum(row["output_tokens"] for row in rows)
    assert metrics[f"vllm:prompt_tokens_total{{{NAME}}}"] == sum(row["prompt_tokens"] or 0 for row in rows)
    for reason in ("stop", "length", "abort", "error"):
        good = [row for row in rows if row["finish"] == reason and row["status"] == 200]
        assert metrics[f'vllm:request_success_total{{finished_reason="{reason}",{NAME}}}'] == len(good)
    assert metrics[f"vllm:time_to_first_token_seconds_count{{{NAME}}}"] == len(first_ns) == 8
    assert metrics[f"vllm:time_to_first_token_seconds_sum{{{NAME}}}"] == sum(first_ns) / 1e9
    assert metrics[f"vllm:inter_token_latency_seconds_sum{{{NAME}}}"] == sum(itl_ns) / 1e9
    assert metrics[f"vllm:e2e_request_latency_seconds_count{{{NAME}}}"] == len(answered) == 7


def test_gauges_show_running_and_waiting_requests_and_cache_usage(start: StartEngine) -> None:
    client = start(slots=1, kv_cache_tokens=100, ttft_s=5.0)
    with client.connect() as running, client.connect() as waiting:
        for connection in (running, waiting):
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 54\r\n\r\n"
                b'{"prompt": "0123456789012345678901234567890123456789"}'
            )
        time.sleep(0.1)
        metrics = client.metrics()

    assert metrics[f"vllm:num_requests_running{{{NAME}}}"] == 1
    assert metrics[f"vllm:num_requests_waiting{{{NAME}}}"] == 1
    assert metrics[f"vllm:kv_cache_usage_perc{{{NAME}}}"] == 0.1


def test_a_disconnected_client_is_an_abort_and_frees_its_slot(start: StartEngine) -> None:
    client = start(slots=1, ttft_s=0.01, prefill_s_per_token=0.0, itl_s=0.01, output_tokens=1000)
    with client.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX-Request-Id: gone\r\n"
            b'Content-Length: 31\r\n\r\n{"prompt": "x", "stream": true}'
        )
        connection.recv(1000)
    (row,) = client.truth(1)

    assert (row["request_id"], row["finish"]) == ("gone", "abort")
    assert row["output_tokens"] < 1000
    assert client.metrics()[f"vllm:num_requests_running{{{NAME}}}"] == 0


def test_every_series_is_present_from_the_start(start: StartEngine) -> None:
    metrics = start().metrics()

    assert metrics[f'vllm:request_success_total{{finished_reason="length",{NAME}}}'] == 0
    assert metrics[f'vllm:inter_token_latency_seconds_bucket{{le="+Inf",{NAME}}}'] == 0
