"""How true are calibrated thresholds and their intervals? Simulated scores of known distributions, many small sets.

    python benchmarks/calibration.py --repeats 400 --output calibration.json

For every number of held-out images and every distribution it prints the mean true false-alarm rate at the threshold
(wanted: 1 %), how often the 90 % interval held it, and the rate of the rule that takes the largest held-out score.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from dmdd.core.logits import logit
from dmdd.models.normal_scores import learn_normal_scores

COUNTS = (3, 5, 9, 21, 34, 77)
RATE = 0.01
TRUTH = 200_000
"""Scores that a true rate is counted on."""


def draw(name: str, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw standardised scores on the logit scale.

    Args:
        name: Of a distribution.
        count: How many.
        random: Where from.

    Returns:
        ``(count,)``.
    """
    draws = {
        "normal": random.standard_normal,
        "gumbel": lambda n: random.gumbel(size=n) / 1.28,
        "heavy tails": lambda n: random.standard_t(4, n) / 1.1,
        "gamma": lambda n: random.gamma(4, size=n) / 2,
        "two kinds": lambda n: random.standard_normal(n) + 2 * (random.random(n) < 0.3),
        "short tails": lambda n: random.beta(2, 3, n) * 5,
    }
    return draws[name](count)


NAMES = ("normal", "gumbel", "heavy tails", "gamma", "two kinds", "short tails")


def simulate(
    name: str, count: int, *, repeats: int, seed: int = 0, intruders: int = 0, rate: float = RATE
) -> dict[str, float]:
    """Calibrate many small sets of one distribution.

    Args:
        name: Of the distribution.
        count: Held-out images.
        repeats: How many sets.
        seed: Of everything drawn.
        intruders: How many of the held-out images are anomalous.
        rate: Wanted.

    Returns:
        ``rate`` the mean true false-alarm rate, ``median`` of it, ``held`` the share of sets whose interval holds the
        true rate, ``largest`` the mean true rate of the largest score as the threshold.
    """
    random = np.random.default_rng(seed)
    truth = np.sort(draw(name, TRUTH, random))
    rates, held, largest = [], [], []
    for _ in range(repeats):
        # Training images score lower and scatter less, by a factor that nobody knows.
        narrower = np.exp(random.normal(np.log(1.3), 0.3))
        spread, place = 0.06 * np.exp(random.normal(0, 0.5)), random.normal(-0.6, 0.3)
        seen = place - spread + spread * draw(name, 9 * count, random) / narrower
        new = place + spread * draw(name, count, random)
        new[:intruders] = place + spread * random.uniform(6, 15, intruders)
        scores, training = 1 / (1 + np.exp(-new)), 1 / (1 + np.exp(-seen))
        known = learn_normal_scores(scores, training=training)
        cut = (float(logit(known.threshold(rate))) - place) / spread
        true = 1 - np.searchsorted(truth, cut) / TRUTH
        promised = known.rate(known.threshold(rate))
        rates.append(true)
        held.append(promised.low <= true + 2 / TRUTH and true <= promised.high)
        largest.append(1 - np.searchsorted(truth, (new.max() - place) / spread, side="right") / TRUTH)
    return {
        "rate": float(np.mean(rates)),
        "median": float(np.median(rates)),
        "held": float(np.mean(held)),
        "largest": float(np.mean(largest)),
    }


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    rows = []
    print("| distribution | held out | intruders | mean rate | median | interval holds | largest score |")
    print("|---|---|---|---|---|---|---|")
    for name in NAMES:
        for count in options.counts:
            for intruders in (0, 1) if count >= 9 else (0,):
                found = simulate(name, count, repeats=options.repeats, intruders=intruders)
                rows.append({"distribution": name, "held_out": count, "intruders": intruders, **found})
                shown = " | ".join(f"{100 * found[key]:.1f} %" for key in ("rate", "median", "held", "largest"))
                print(f"| {name} | {count} | {intruders} | {shown} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
