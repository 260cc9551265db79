# Train on a GPU (or without one). Needs the NVIDIA container toolkit for --gpus.
#   docker build -f docker/train.Dockerfile -t dmdd-train .
#   docker run --rm --gpus all --shm-size=8g --user "$(id -u):$(id -g)" -v "$PWD/data:/work/data:ro" \
#     -v "$PWD/runs:/work/runs" dmdd-train category=screw resume=true name=screw
# PyTorch's wheel brings the CUDA libraries, so the base needs only the driver of the host.
FROM python:3.12-slim
ENV HOME=/work WANDB_MODE=offline
WORKDIR /source
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[lite,export,tensorboard]" \
 && rm -rf /source \
 && useradd --home-dir /work --uid 10001 dmdd \
 && install -d -o dmdd -m 0777 /work
USER dmdd
WORKDIR /work
# A training answers no requests: it is healthy while it can still compute.
HEALTHCHECK --interval=5m --timeout=60s --start-period=2m CMD ["python", "-c", "import torch; torch.ones(1).sum()"]
ENTRYPOINT ["python", "-m", "dmdd.train"]
