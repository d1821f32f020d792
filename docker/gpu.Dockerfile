# TorchServe on an NVIDIA GPU, with ONNX Runtime's CUDA provider. Needs the NVIDIA container toolkit on the host.
#   docker build -f docker/gpu.Dockerfile -t segdeploy-gpu .
#   docker run --rm --gpus all --read-only --tmpfs /tmp:exec --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8080:8080 -v "$PWD/model_store:/models:ro" segdeploy-gpu /models/upernet.mar
# CUDA's version must be the one that the onnxruntime-gpu of the build asks for: its release notes say which.
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 AS base
ENV DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY configs configs
COPY segdeploy segdeploy
# The version that constraints.txt has of ONNX Runtime is the CPU's.
RUN python3 -m venv /opt/segdeploy \
 && /opt/segdeploy/bin/pip install --no-cache-dir -c constraints.txt '.[onnx-gpu,serve]'

FROM base
COPY --from=build /opt/segdeploy /opt/segdeploy
COPY docker/health.py docker/serve.sh /opt/
ENV PATH=/opt/segdeploy/bin:$PATH HOME=/tmp USER=segdeploy PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s CMD ["python3", "/opt/health.py", "http://127.0.0.1:8080/ping"]
ENTRYPOINT ["sh", "/opt/serve.sh"]
CMD ["/models/model.mar"]
