# docker build -t vfn . && docker run --gpus all -v $PWD/images:/data -v $PWD/outputs:/app/outputs vfn data=folder data.root=/data ...
FROM python:3.12-slim AS build
COPY requirements.txt /app/
# The PyPI wheels of torch carry the CUDA libraries; the driver comes from the host.
RUN python -m venv /app/.venv && /app/.venv/bin/pip install --no-cache-dir -r /app/requirements.txt

FROM python:3.12-slim
COPY --from=build /app /app
COPY conf /app/conf
COPY vfn /app/vfn
COPY train.py predict.py evaluate.py /app/
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["python", "train.py"]
