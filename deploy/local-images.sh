#!/usr/bin/env bash
# Makes the base images of the deployment from Debian packages, for a Docker engine that reaches no container registry.
#
#   sudo deploy/local-images.sh
#
# The images get their usual names, so the Dockerfile and docker-compose.yml are the same with and without a registry.
# An image that is already there is left alone: after this script, or after a pull, nothing is made twice.
# Needs: root, a Debian host, debootstrap, a running Docker engine. The Debian mirror is the one of the host's apt
# sources; the CA bundle and the pip settings of the host go into the base images, never into the repository.
# Grafana is not packaged by Debian: its image has to be pulled.
set -euo pipefail

readonly SUITE=bookworm
readonly DEBIAN=debian:bookworm-slim
readonly PYTHON_RUNTIME=python:3.11-slim-bookworm
readonly PYTHON_BUILD=python:3.11-bookworm
readonly REDIS=redis:7.0-bookworm
readonly PROMETHEUS=prom/prometheus:v2.42.0
readonly EXPORTER=oliver006/redis_exporter:v1.45.0

docker version >/dev/null || exit  # it says why no engine answers

export DOCKER_BUILDKIT=0  # the classic builder needs no plug-in and no image of its own
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

exists() { docker image inspect "$1" >/dev/null 2>&1; }

# Builds image $1 from the Dockerfile on stdin and the files under $2 (default: none).
build() {
  local image=$1 context=${2:-$WORK/empty}
  exists "$image" && return
  echo "making $image"
  mkdir -p "$context"
  cat >"$context/Dockerfile"
  docker build --network host --tag "$image" "$context" >"$WORK/build.log" 2>&1 || { tail -n 40 "$WORK/build.log" >&2; return 1; }
}

# The mirror of the Debian archive labelled $1 in the host's apt sources.
mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(SITE)' 'Identifier: Packages' |
    awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label { print $3; exit }'
}

make_debian() {
  exists "$DEBIAN" && return
  command -v debootstrap >/dev/null && [ "$(id -u)" = 0 ] || { echo "needs debootstrap (apt-get install debootstrap) and root" >&2; return 1; }
  local main security root=$WORK/debian
  main=$(mirror Debian)
  security=$(mirror Debian-Security)
  echo "making $DEBIAN from ${main:?no Debian mirror in the apt sources of this machine}"
  debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$root" "$main" >"$WORK/debootstrap.log" ||
    { tail -n 40 "$WORK/debootstrap.log" >&2; return 1; }
  {
    echo "deb $main $SUITE main"
    [ -z "$security" ] || echo "deb $security $SUITE-security main"
  } >"$root/etc/apt/sources.list"
  printf 'path-exclude /usr/share/%s/*\n' doc man locale info >"$root/etc/dpkg/dpkg.cfg.d/slim"
  printf 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n' >"$root/etc/apt/apt.conf.d/slim"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/{doc,man,locale,info}/*
  tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$DEBIAN" >/dev/null
  rm -rf "$root"
}

# Writes the host's pip settings to $1/etc/pip.conf, with the local directories that find-links points to beside it.
# Local package indexes (file://) and constraint files stay behind: they are a cache of the host, not its way out.
copy_pip_settings() {
  python3 - "$1" <<'PY'
import ast, pathlib, shutil, subprocess, sys

root = pathlib.Path(sys.argv[1])
settings: dict[str, str] = {}
for line in subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True).splitlines():
    name, _, value = line.partition("=")
    settings[name.rpartition(".")[2]] = ast.literal_eval(value)

kept = {key: settings[key] for key in ("timeout", "default-timeout", "trusted-host", "proxy") if key in settings}
for key in ("index-url", "extra-index-url"):
    if urls := [url for url in settings.get(key, "").split() if not url.startswith("file:")]:
        kept[key] = " ".join(urls)
if links := settings.get("find-links", "").split():
    kept["find-links"] = " ".join(links)
    for link in map(pathlib.Path, links):
        if link.is_dir():
            shutil.copytree(link, root / link.relative_to("/"))
kept["cert"] = "/etc/ssl/certs/ca-certificates.crt"
(root / "etc").mkdir(parents=True, exist_ok=True)
(root / "etc/pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items()))
PY
}

make_debian

build "$PYTHON_RUNTIME" <<EOT
FROM $DEBIAN
RUN apt-get update && apt-get install -y python3 && rm -rf /var/lib/apt/lists/*
ENV LANG=C.UTF-8
CMD ["python3"]
EOT

if ! exists "$PYTHON_BUILD"; then
  copy_pip_settings "$WORK/build/root"
  build "$PYTHON_BUILD" "$WORK/build" <<EOT
FROM $PYTHON_RUNTIME
RUN apt-get update && apt-get install -y python3-venv python3-pip python3-dev gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY root /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EOT
fi

build "$REDIS" <<EOT
FROM $DEBIAN
RUN apt-get update && apt-get install -y redis-server && rm -rf /var/lib/apt/lists/*
RUN mkdir /data && chown redis:redis /data
USER redis
WORKDIR /data
VOLUME /data
EXPOSE 6379
CMD ["redis-server", "--protected-mode", "no"]
EOT

build "$PROMETHEUS" <<EOT
FROM $DEBIAN
RUN apt-get update && apt-get install -y prometheus && rm -rf /var/lib/apt/lists/*
RUN mkdir -p /prometheus && chown nobody:nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
EXPOSE 9090
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
EOT

build "$EXPORTER" <<EOT
FROM $DEBIAN
RUN apt-get update && apt-get install -y prometheus-redis-exporter && rm -rf /var/lib/apt/lists/*
USER nobody
EXPOSE 9121
ENTRYPOINT ["prometheus-redis-exporter"]
EOT

docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -F -e "$PYTHON_RUNTIME" -e "$PYTHON_BUILD" -e "$REDIS" -e "$PROMETHEUS" -e "$EXPORTER"
