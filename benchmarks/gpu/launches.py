"""Count the kernels that a GPU would be given for a step's pairs, without one.

    PYTHONPATH=tests python benchmarks/gpu/launches.py [--batch 16] [--size 256]

Drawn images stand for real ones: launches depend on the plan, not on the pixels. A launch takes the host 4 to 8 us.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import gpu_stand_in
from dmdd.config.schema import TrainSettings
from dmdd.data import datamodule
from dmdd.data.demo.generate import generate_demo
from dmdd.data.sampling import PairSampler
from dmdd.experiment.category import read_category
from dmdd.experiment.experiment import make_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images of a step on one GPU")
    parser.add_argument("--size", type=int, default=256, help="side of the images, px")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate_demo(Path(folder), size=options.size, train=24, test_good=1, per_defect=1)
        usual = ["dataset=demo", "category=plate", f"data_dir={folder}", "augmentation=jitter"]
        sizes = [f"batch_size={options.batch}", f"image_size=[{options.size},{options.size}]"]
        settings = TrainSettings.compose(*usual, *sizes)
        data = make_data(settings, read_category(settings.dataset, settings.category))
        data.setup("fit")
    pairs, _ = datamodule.AT_ONCE["gpu"]
    for steps in (1, pairs * 256**2 // (options.batch * options.size**2)):
        datamodule.AT_ONCE["gpu"] = (pairs, steps)
        sampler = PairSampler(
            images=data.training_images, batch_size=options.batch, first_step=0, steps=steps, seed=0, views=data.views
        )
        with gpu_stand_in.stand_in_gpu() as waits:
            served = data.serve(sampler, torch.device("cuda"))
            gpu_stand_in.LAUNCHES.clear()
            waits.clear()
            made = list(served)
            launches = gpu_stand_in.LAUNCHES.total()
        print(f"pairs of {steps} steps at once: {launches / len(made):.0f} launches a step, {len(waits)} waits")
        most = ", ".join(f"{name} {count}" for name, count in gpu_stand_in.LAUNCHES.most_common(8))
        print(f"  most often: {most}")


if __name__ == "__main__":
    main()
