# `make help` lists the targets.
GO ?= go
ENV := eval "$$(scripts/deps.sh env)"

.PHONY: help deps env build test lint
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

deps: ## install or build what this machine lacks (kept in ~/.cache/lookout)
	@scripts/deps.sh

env: ## print the exports that plain go commands need: eval "$$(make -s env)"
	@scripts/deps.sh env

build: deps ## put the program at bin/lookout
	$(ENV); $(GO) build -ldflags "-X github.com/lookout-video/lookout/internal/ort.defaultLibrary=$$LOOKOUT_ONNXRUNTIME" -o bin/lookout ./cmd/lookout

lint: ## run golangci-lint, as .golangci.yml says
	@scripts/deps.sh lint
	$(ENV); "$$(scripts/deps.sh lint-path)" run ./...

test: ## run all tests
	@scripts/deps.sh test
	$(ENV); $(GO) vet ./... && $(GO) test -race ./...
	CGO_ENABLED=0 $(GO) build ./media ./tensor ./event ./pipeline
