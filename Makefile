# `make help` lists the targets.
GO ?= go
ENV := eval "$$(scripts/deps.sh env)"
LDFLAGS = -X github.com/lookout-video/lookout/internal/ort.defaultLibrary=$$LOOKOUT_ONNXRUNTIME

.PHONY: help demo deps env build test test-browser test-kill lint fuzz bench bench-quick goldens smollm2 smollm2-server swap
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: build ## the bundled video with everything embedded: page, words, Redis
	bin/lookout demo

deps: ## install or build what this machine lacks (kept in ~/.cache/lookout)
	@scripts/deps.sh

env: ## print the exports that plain go commands need: eval "$$(make -s env)"
	@scripts/deps.sh env

build: deps ## put the program at bin/lookout
	$(ENV); $(GO) build -ldflags "$(LDFLAGS)" -o bin/lookout ./cmd/lookout

test: ## run all tests
	@scripts/deps.sh test
	$(ENV); $(GO) vet ./... && $(GO) test -race -timeout 20m ./...
	$(ENV); CGO_ENABLED=0 $(GO) build ./media ./tensor ./event ./configs ./eval ./pipeline

test-browser: ## the page in a real Chromium alone
	@scripts/deps.sh test
	$(ENV); $(GO) test -run Browser -v ./output/web ./cmd/lookout

test-kill: ## kill Lookout and Redis at random for two minutes; the last line is JSON
	@scripts/deps.sh test
	$(ENV); $(GO) run ./output/redis/killtest -for 2m

lint: ## run golangci-lint, as .golangci.yml says
	@scripts/deps.sh lint
	$(ENV); "$$(scripts/deps.sh lint-path)" run ./...

fuzz: ## each fuzz target for ten seconds
	$(ENV); for t in $$(grep -rlE '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$t/*_test.go | cut -c6-); do $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime 10s $$t || exit 1; done; done

bench: build ## measure this machine beside the peers, within 40 minutes
	bench/peers/setup.sh || echo "what is not set up is named as missing"
	$(ENV); bin/lookout bench

bench-quick: build ## the same within 8 minutes, with the peers that are there
	$(ENV); bin/lookout bench --quick

goldens: ## remake what the reference library gives for the public models, for the parity tests (Python, 6 GB, once)
	train/goldens/run.sh

bench-docs: build ## the last run's figures and plots into docs/bench.md
	bin/lookout bench --from bench/results/latest.json --docs docs/bench.md

smollm2: ## a language model with real weights, for lookout chat and its tests (Python, 5 GB, once)
	train/smollm2.sh

smollm2-server: ## the same behind a real OpenAI-compatible server, beside a small model that sees, and the remote engine's tests against both
	$(ENV); train/smollm2.sh server

swap: ## the same language model as the embedded model's voice (Python, an hour, after train/run.sh); then its scores
	train/swap.sh
	$(MAKE) build
	$(ENV); bin/lookout eval testdata/yard --model "$${LOOKOUT_CACHE:-$$HOME/.cache/lookout}/train/bundle-smollm2"
