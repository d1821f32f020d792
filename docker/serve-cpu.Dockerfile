# Written without a Docker engine at hand: never built yet.
# TorchServe on the CPU with an ONNX archive; mmsegmentation is not inside. PyTorch is, because TorchServe imports it.
#   docker build -f docker/serve-cpu.Dockerfile -t segdeploy-serve .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/model_store:/models:ro" segdeploy-serve upernet
FROM python:3.11-slim
RUN useradd --create-home server
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[onnx,serve]'
USER server
WORKDIR /home/server
EXPOSE 8080
# Inside a container the port is published by `docker run`, which binds it to loopback above.
ENTRYPOINT ["sh", "-c", "exec segdeploy serve /models/$0.mar --host 0.0.0.0 --port 8080"]
CMD ["upernet"]
