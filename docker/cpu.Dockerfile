# TorchServe on the CPU, or with --target ray Ray Serve of ONNX artifacts. Without mmsegmentation. TorchServe's has PyTorch inside,
# because TorchServe imports it; Ray's has none.
#   docker build -f docker/cpu.Dockerfile -t segdeploy .
# The registry's PyTorch carries CUDA, several gigabytes of it. With --build-arg PIP_EXTRA_INDEX_URL=INDEX, where INDEX is PyTorch's
# own index of CPU builds (as pytorch.org names it), pip takes that build of the same version.
#   docker run --rm --read-only --tmpfs /tmp:exec --cap-drop ALL --security-opt no-new-privileges --name segdeploy \
#     -p 127.0.0.1:8080:8080 -v "$PWD/model_store:/models:ro" segdeploy /models/upernet.mar
#   docker exec segdeploy cat /tmp/authorization        # the header with the token that every request must bring
#   docker build -f docker/cpu.Dockerfile --target ray -t segdeploy-ray .
#   docker run --rm --read-only --tmpfs /tmp:exec --shm-size 2g --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8080:8080 -v "$PWD/exports/upernet_r18/onnx-fp32:/models/artifact:ro" segdeploy-ray
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY configs configs
COPY segdeploy segdeploy
RUN python -m venv /opt/segdeploy

FROM build AS build-ray
RUN /opt/segdeploy/bin/pip install --no-cache-dir -c constraints.txt '.[onnx,ray]'

FROM build AS build-torchserve
ARG PIP_EXTRA_INDEX_URL
RUN /opt/segdeploy/bin/pip install --no-cache-dir -c constraints.txt '.[onnx,serve]'

FROM python:3.11-slim AS base
COPY docker/health.py docker/serve.sh /opt/
# A user without an account: what looks for its name or its home finds them here.
ENV PATH=/opt/segdeploy/bin:$PATH HOME=/tmp USER=segdeploy PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s CMD ["python", "/opt/health.py", "http://127.0.0.1:8080/ping"]

FROM base AS ray
COPY --from=build-ray /opt/segdeploy /opt/segdeploy
EXPOSE 8080
ENTRYPOINT ["segdeploy", "serve", "--engine", "ray", "--host", "0.0.0.0", "--token-file", "/tmp/authorization"]
CMD ["/models/artifact"]

FROM base AS torchserve
COPY --from=build-torchserve /opt/segdeploy /opt/segdeploy
# Predictions, and metrics for Prometheus.
EXPOSE 8080 8082
ENTRYPOINT ["sh", "/opt/serve.sh"]
CMD ["/models/model.mar"]
