# `make help` lists the targets.
GO ?= go

.PHONY: help test
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

test: ## run all tests
	$(GO) vet ./...
	CGO_ENABLED=0 $(GO) test ./...
