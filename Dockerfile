# docker build -t img2img .                              for CPUs
# docker build -t img2img:cuda --build-arg FOR=cuda .    for NVIDIA GPUs
ARG FOR=cpu
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision

FROM python:${PYTHON}-slim AS cuda
# hadolint ignore=DL3013
RUN pip install --no-cache-dir torch torchvision

FROM ${FOR}
ARG EXTRAS=hub,lab,metrics,microscopes,onnx,serve,slides,stores,tensorboard,zarr
COPY . /source
RUN pip install --no-cache-dir "/source[${EXTRAS}]" && rm -r /source \
    && useradd --create-home --uid 1000 img2img && chmod a+rwx /home/img2img && install --directory --owner=1000 /work
# Any user may run it, as with --user "$(id -u)": caches are in this folder, and libraries ask for a name.
ENV HOME=/home/img2img USER=img2img PYTHONUNBUFFERED=1
USER 1000
VOLUME /work
WORKDIR /work
ENTRYPOINT ["img2img"]
CMD ["--help"]
