#!/usr/bin/env bash
# Brings the stack of .env up and says where it can be looked at: `make up`. Again is well: what runs goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -e .env ] || cp .env.example .env
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }

# A registry that cannot be reached costs what looks on, not the run.
missing=()
for service in grafana redis-exporter; do
  image=$(sed -n "/^  $service:/,/image:/s/^ *image: //p" docker-compose.yml)
  docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" >/dev/null 2>&1 || missing+=("$service")
done
services=()
if [ ${#missing[@]} -gt 0 ]; then
  echo "no image can be pulled for: ${missing[*]}; the stack comes up without"
  services=(secrets redis prepare rollout trainer collector evaluation prometheus)
  case " ${missing[*]} " in *" redis-exporter "*) ;; *) services+=(redis-exporter) ;; esac
  profiles=${COMPOSE_PROFILES-$(sed -n 's/^COMPOSE_PROFILES=//p' .env | tail -n 1)}
  for profile in ${profiles//,/ }; do  # whoever names services gets no others
    case $profile in
      agents) services+=(agent) ;;
      replica-*) services+=("rollout-${profile#replica-}") ;;
    esac
  done
fi

if ! compose up --detach --build "${services[@]}"; then
  compose logs --no-color --tail 20 prepare
  exit 1
fi

at() { compose port "$@" 2>/dev/null || true; }
case " ${missing[*]} " in *" grafana "*) ;; *) echo "dashboard:      http://$(at grafana 3000)" ;; esac
cat <<EOT
measurements:   http://$(at prometheus 9090)
its log:        docker compose logs --follow trainer
its report:     make report, at any time; the final one when the training is evaluated
more replicas:  docker compose up --detach --scale rollout=4 ${services[*]}
end it:         make down
EOT
