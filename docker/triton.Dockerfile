# Triton whose Python runs the predictor of an ONNX artifact: without PyTorch. A bare model (pack --bare) needs NVIDIA's image alone.
#   segdeploy pack --to triton --name upernet
#   docker build -f docker/triton.Dockerfile -t segdeploy-triton .
#   docker run --rm --read-only --tmpfs /tmp --shm-size 1g --cap-drop ALL --security-opt no-new-privileges \
#     -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -v "$PWD/model_repository:/models:ro" segdeploy-triton
FROM nvcr.io/nvidia/tritonserver:25.08-py3
COPY pyproject.toml README.md /src/
COPY configs /src/configs
COPY segdeploy /src/segdeploy
# Triton 2.51's Python backend reads every request wrongly with NumPy 2; OpenCV of before 4.12 takes NumPy 1.
RUN python3 -m pip install --no-cache-dir --break-system-packages '/src[onnx]' 'numpy<2' 'opencv-python-headless<4.12'
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["tritonserver", "--model-repository", "/models", "--model-control-mode", "none", "--disable-auto-complete-config"]
# Models, shared memory, traces and logging are set by who starts it, and by nobody else: the key is never given out.
CMD ["--http-restricted-api", "model-repository,shared-memory,trace,logging:admin-key=change-me", "--grpc-restricted-protocol", "model-repository,shared-memory,trace,logging:admin-key=change-me"]
