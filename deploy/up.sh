#!/usr/bin/env bash
# Brings the stack of .env up and says where it can be looked at: `make up`. Again is well: what runs goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -e .env ] || cp .env.example .env
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }

# A registry that cannot be reached costs the dashboard, not the run.
readonly GRAFANA=$(sed -n 's/^ *image: \(grafana.*\)/\1/p' docker-compose.yml)
services=()
if ! docker image inspect "$GRAFANA" >/dev/null 2>&1 && ! docker pull --quiet "$GRAFANA" >/dev/null 2>&1; then
  echo "$GRAFANA cannot be pulled: the stack comes up without its dashboard"
  services=(secrets redis prepare rollout trainer collector evaluation prometheus)
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
[ ${#services[@]} -gt 0 ] || echo "dashboard:      http://$(at grafana 3000)"
cat <<EOT
measurements:   http://$(at prometheus 9090)
its log:        docker compose logs --follow trainer
its report:     make report, at any time; the final one when the training is evaluated
more replicas:  docker compose up --detach --scale rollout=4 ${services[*]}
end it:         make down
EOT
