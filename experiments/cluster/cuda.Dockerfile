# docker build -f experiments/cluster/cuda.Dockerfile -t alexnet_jax:cuda .
# The wheels of jax[cuda13] bring CUDA's libraries; the host needs NVIDIA's driver and container toolkit.
FROM python:3.13-slim
WORKDIR /alexnet_jax
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY alexnet_jax alexnet_jax
COPY configs configs
COPY experiments experiments
RUN pip install --no-cache-dir -c constraints.txt -e ".[cuda]"
CMD ["python", "-m", "alexnet_jax"]
