# TorchServe on the CPU. Without mmsegmentation; with PyTorch, because TorchServe imports it.
#   docker build -f docker/cpu.Dockerfile -t segdeploy .
# The registry's PyTorch carries CUDA, several gigabytes of it. With --build-arg PIP_EXTRA_INDEX_URL=INDEX, where INDEX is PyTorch's
# own index of CPU builds (as pytorch.org names it), pip takes that build of the same version.
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --name segdeploy \
#     -p 127.0.0.1:8080:8080 -v "$PWD/model_store:/models:ro" segdeploy /models/upernet.mar
#   docker exec segdeploy cat /tmp/authorization        # the header with the token that every request must bring
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md constraints.txt ./
COPY configs configs
COPY segdeploy segdeploy
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/segdeploy \
 && /opt/segdeploy/bin/pip install --no-cache-dir -c constraints.txt '.[onnx,serve]'

FROM python:3.11-slim
COPY --from=build /opt/segdeploy /opt/segdeploy
COPY docker/health.py docker/serve.sh /opt/
# A user without an account: what looks for its name or its home finds them here.
ENV PATH=/opt/segdeploy/bin:$PATH HOME=/tmp USER=segdeploy PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
# Predictions, and metrics for Prometheus.
EXPOSE 8080 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s CMD ["python", "/opt/health.py", "http://127.0.0.1:8080/ping"]
ENTRYPOINT ["sh", "/opt/serve.sh"]
CMD ["/models/model.mar"]
