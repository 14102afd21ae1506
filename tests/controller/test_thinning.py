"""A thinned curve looks like the whole one: no spike and no NaN goes missing, and it is as short as was asked for."""

import random

from outrider_controller import series, thinning


def curve(length: int, **odd: float | str) -> list[series.Sample]:
    """A calm curve; ``loss_N`` gives sample N another loss, ``step_s_N`` another step time."""
    chance = random.Random(1)
    return [
        series.Sample(
            1,
            n,
            1000.0 + n,
            odd.get(f"loss_{n}", 2.0 + chance.random() / 100),
            1.0,
            64.0,
            odd.get(f"step_s_{n}", 0.5 + chance.random() / 100),  # type: ignore[arg-type]
        )
        for n in range(length)
    ]


def test_a_short_curve_is_left_as_it_is() -> None:
    assert thinning.thin(curve(50), 50) == curve(50)
    assert thinning.thin([], 10) == []


def test_a_long_curve_is_short_and_in_order_and_keeps_both_ends() -> None:
    for length, most in ((20_000, 2000), (11, 10), (1000, 10), (20_000, 12)):
        found = thinning.thin(curve(length), most)
        assert len(found) <= most
        assert [one.step for one in found] == sorted({one.step for one in found})
        assert (found[0].step, found[-1].step) == (0, length - 1)


def test_spikes_and_what_is_no_number_stay() -> None:
    whole = curve(20_000, loss_7001="nan", loss_9003=9.0, loss_9004=0.1, step_s_12005=30.0)
    kept = {one.step for one in thinning.thin(whole, 400)}
    assert {7001, 9003, 9004, 12005} <= kept


def test_samples_of_one_moment_and_without_values_are_no_trouble() -> None:
    same = [series.Sample(1, n, 5.0) for n in range(500)]
    found = thinning.thin(same, 100)
    assert 1 <= len(found) <= 100
