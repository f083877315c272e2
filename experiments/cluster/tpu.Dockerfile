# docker build -f experiments/cluster/tpu.Dockerfile -t alexnet_jax:tpu .
# The wheel of libtpu comes with jax[tpu]; the host is a Cloud TPU VM.
FROM python:3.13-slim
WORKDIR /alexnet_jax
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY alexnet_jax alexnet_jax
COPY configs configs
COPY experiments experiments
RUN pip install --no-cache-dir -c constraints.txt -e ".[tpu]"
CMD ["python", "-m", "alexnet_jax"]
