# Serve an exported model on a CPU with ONNX Runtime, without torch.
#   docker build -f docker/serve.Dockerfile -t dmdd-serve .
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/exported:/model:ro" dmdd-serve model=/model/detector.onnx
# There is no authentication and no encryption: publish the port on loopback only, or behind a proxy that has both.
# For OpenVINO files (.xml): --build-arg RUNTIME=openvino.
FROM python:3.12-slim AS wheel
RUN pip install --no-cache-dir hatchling
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python:3.12-slim
ARG RUNTIME=onnxruntime
COPY docker/serve-requirements.txt constraints.txt /install/
COPY --from=wheel /wheel /install/
RUN sed -i "s/^onnxruntime$/${RUNTIME}/" /install/serve-requirements.txt \
 && pip install --no-cache-dir -c /install/constraints.txt -r /install/serve-requirements.txt \
 && pip install --no-cache-dir --no-deps /install/*.whl \
 && rm -r /install \
 && useradd --create-home --uid 10001 dmdd
USER dmdd
WORKDIR /home/dmdd
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["python", "-m", "dmdd.serve", "host=0.0.0.0", "port=7860"]
