# `make help` lists the targets.
GO ?= go
ENV := eval "$$(scripts/deps.sh env)"

.PHONY: help deps env test
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

deps: ## install or build what this machine lacks (kept in ~/.cache/lookout)
	@scripts/deps.sh

env: ## print the exports that plain go commands need: eval "$$(make -s env)"
	@scripts/deps.sh env

test: deps ## run all tests
	$(ENV); $(GO) vet ./... && $(GO) test -race ./...
	CGO_ENABLED=0 $(GO) build ./media ./tensor ./event ./pipeline
