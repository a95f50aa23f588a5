"""The trial of limits runs a deployment, and says whether its limit was named."""

from click.testing import CliRunner

from benchmarks.trials import limits


def test_a_planted_limit_is_named_in_a_run() -> None:
    done = CliRunner().invoke(limits.main, ["--length-s", "2", "--only", "4 slots"])

    assert done.exit_code == 0, done.output
    assert "PASS  4 slots, 12 users: max_num_seqs" in done.output
    assert "1 of 1 limits were named" in done.output


def test_ten_deployments_have_each_limit_that_there_is() -> None:
    assert len(limits.PLANTED) == 10
    assert {each.limit for each in limits.PLANTED} == {
        *("client", "kv_cache", "max_num_seqs", "network", "prefill", "bandwidth", "nothing")
    }


def test_a_name_that_is_not_there_is_refused() -> None:
    done = CliRunner().invoke(limits.main, ["--only", "no such deployment"])

    assert done.exit_code == 2
