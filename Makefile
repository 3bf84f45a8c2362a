# Waybill. `make` lists what there is to make.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help

# Programs are built from the versions pinned in tools/go.mod, outside the workspace, so that they never move the versions the product is built with.
BIN := .tmp/bin
TOOL := GOWORK=off go build -C tools -o ../$(BIN)/
GATEWAY := github.com/grpc-ecosystem/grpc-gateway/v2
# The commit to compare the contract with: the last release, if this clone has its tag.
BASE ?= $(shell git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)
# What the releases left in the repository, for clones that have no tags.
HISTORY := test/contract/history

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: gen
gen: $(BIN)/.gen ## Generate Go, gateway and OpenAPI from proto/, the chart's list of who calls whom, and k8s/ from the chart
	@$(BIN)/protodeps .tmp/protodeps
	@$(BIN)/buf format -d --exit-code proto >/dev/null || { echo 'proto/ is not formatted: run $(BIN)/buf format -w proto'; exit 1; }
	@$(BIN)/buf lint
	@$(BIN)/buf generate
	@$(BIN)/buf build -o .tmp/descriptors.binpb
	@$(BIN)/openapiv3-merge $$(find .tmp/openapi -name '*.json' | LC_ALL=C sort) > .tmp/merged.json
	@$(BIN)/openapi .tmp/descriptors.binpb .tmp/merged.json proto/gen/openapi/waybill.openapi.json
	@GOWORK=off go run ./platform/gateway/docspage/make proto/gen/openapi/waybill.openapi.json proto/gen/openapi/docs.html
	@GOWORK=off go run ./cmd/waybill topology --json > .tmp/topology.json && mv .tmp/topology.json charts/waybill/files/topology.json
	@$(BIN)/chartdocs charts/waybill
	@if command -v helm >/dev/null; then cd tools && GOWORK=off go run ./overlays ../charts/waybill ../k8s mono three split; else echo 'helm is not installed: k8s/overlays stay as they are'; fi

.PHONY: checkgen
checkgen: gen ## Fail when the generated code committed is not what gen makes
	@changed=$$(git status --porcelain -- proto/gen charts/waybill/files/topology.json charts/waybill/README.md k8s); \
	if [ -n "$$changed" ]; then printf 'what is generated is not what its sources say; run make gen and commit:\n%s\n' "$$changed"; git --no-pager diff --stat -- proto/gen charts/waybill k8s; exit 1; fi

.PHONY: breaking
breaking: $(BIN)/.gen ## Fail when the contract breaks clients of the last release, or of the commit BASE
	@$(BIN)/protodeps .tmp/protodeps
	@$(BIN)/buf breaking proto --exclude-imports --against $$(ls -d $(HISTORY)/v* | sort -V | tail -1)/contract.binpb.gz
	@if [ -n "$(BASE)" ]; then \
		rm -rf .tmp/base && mkdir -p .tmp/base/.tmp && cp -r .tmp/protodeps .tmp/base/.tmp/; \
		git archive $(BASE) proto buf.yaml | tar -x -C .tmp/base; \
		$(BIN)/buf breaking --against .tmp/base; \
	fi

.PHONY: history
history: $(BIN)/.gen ## Record contract and events for the release VERSION, with which all later ones must agree
	@[[ '$(VERSION)' =~ ^v[0-9]+\.[0-9]+\.[0-9]+$$ ]] || { echo 'say which release: make history VERSION=v0.2.0'; exit 1; }
	@if git rev-parse -q --verify 'refs/tags/$(VERSION)' >/dev/null; then echo '$(VERSION) is released: its history stays as it is'; exit 1; fi
	@$(BIN)/protodeps .tmp/protodeps
	@mkdir -p $(HISTORY)/$(VERSION)
	@$(BIN)/buf build proto --exclude-source-info -o $(HISTORY)/$(VERSION)/contract.binpb.gz
	@go test -count=1 ./test/contract -run TestRecordHistory -args -record history/$(VERSION)

# protoc-gen-go comes from proto/go.mod: the generator and the runtime of the generated code are one release.
$(BIN)/.gen: tools/go.mod tools/go.sum proto/go.mod $(wildcard tools/protodeps/*.go tools/openapi/*.go tools/chartdocs/*.go)
	@mkdir -p $(BIN)
	@GOWORK=off go build -C proto -o ../$(BIN)/ google.golang.org/protobuf/cmd/protoc-gen-go
	@$(TOOL) ./protodeps ./openapi ./chartdocs github.com/bufbuild/buf/cmd/buf google.golang.org/grpc/cmd/protoc-gen-go-grpc \
		$(GATEWAY)/protoc-gen-grpc-gateway $(GATEWAY)/protoc-gen-openapiv3 $(GATEWAY)/openapiv3-merge
	@touch $@

# Other programs of this repository's work, built when a target asks for them.
$(BIN)/govulncheck: tools/go.mod tools/go.sum
	@$(TOOL) golang.org/x/vuln/cmd/govulncheck
$(BIN)/grpcurl: tools/go.mod tools/go.sum
	@$(TOOL) github.com/fullstorydev/grpcurl/cmd/grpcurl
$(BIN)/benchstat: tools/go.mod tools/go.sum
	@$(TOOL) golang.org/x/perf/cmd/benchstat
# Static, since it goes into an image of nothing.
$(BIN)/dlv: tools/go.mod tools/go.sum
	@CGO_ENABLED=0 $(TOOL) github.com/go-delve/delve/cmd/dlv
$(BIN)/cacerts: tools/go.mod tools/go.sum tools/cacerts/main.go
	@$(TOOL) ./cacerts
$(BIN)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@GOWORK=off go build -C tools/lint -o ../../$(BIN)/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Every module of the workspace, so that a new one cannot be forgotten.
MODULES = $(shell go work edit -json | sed -n 's/.*"DiskPath": "\(.*\)".*/\1/p')

# The race detector needs a C compiler. Without one the tests run without it, except where CI demands it.
RACE = $(shell if command -v gcc >/dev/null || command -v clang >/dev/null || [ "$${CI:-}" = true ]; then echo -race; fi)

# In CI a test of the contract wants what breaking builds, which elsewhere is not to be downloaded for it.
.PHONY: test
test: $(if $(filter true,$(CI)),breaking) ## Test everything; needs only Go, uses Postgres when there is one, requires it when CI=true
	@for m in $(MODULES); do (cd $$m && go test $(RACE) -timeout 40m ./...) || exit 1; done

# Worlds that prove runs.
SEEDS ?= 2000

.PHONY: prove
prove: ## Prove that nothing is lost and nothing happens twice: simulated worlds, crashes, kills, broker loss, linearizability (minutes)
	@SEEDS=$(SEEDS) go run ./test/prove

.PHONY: lint
lint: $(BIN)/golangci-lint breaking ## Check formatting, linters, module files, that each module builds by itself and that the contract breaks nobody
	@unformatted=$$(gofmt -l $$(git ls-files '*.go' ':!proto/gen')); if [ -n "$$unformatted" ]; then printf 'not formatted, run gofmt -w:\n%s\n' "$$unformatted"; exit 1; fi
	@for m in $(MODULES); do (cd $$m && $(CURDIR)/$(BIN)/golangci-lint run ./... && GOWORK=off go mod tidy -diff && GOWORK=off go build ./...) || exit 1; done

.PHONY: vulncheck
vulncheck: $(BIN)/govulncheck ## Look for known vulnerabilities in what the binary uses (GOVULNDB names another database)
	@$(BIN)/govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./...

# Without gRPC's own page of traces, which is not served and whose templates keep the linker from leaving out what nobody calls.
TAGS := grpcnotrace

.PHONY: build
build: ## Build bin/waybill, static and reproducible
	@GOWORK=off CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -o bin/waybill ./cmd/waybill

# What the container image is called, and the time its files and labels carry: that of the commit, so that the same commit gives the same files.
IMAGE ?= waybill:dev
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# Linked without symbol tables: profiles and stack traces do not need them. A debugger does.
IMAGE_LDFLAGS ?= -s -w
IMAGE_GCFLAGS ?=

.PHONY: image
image: $(BIN)/cacerts ## Build the container image IMAGE (waybill:dev)
	@rm -rf .tmp/image && mkdir -p .tmp/image/root/etc/ssl/certs .tmp/image/root/tmp .tmp/image/data
	@GOWORK=off CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -gcflags '$(IMAGE_GCFLAGS)' -ldflags '$(IMAGE_LDFLAGS)' -o .tmp/image/root/waybill ./cmd/waybill
	@$(BIN)/cacerts .tmp/image/root/etc/ssl/certs/ca-certificates.crt
	@chmod -R a+rX .tmp/image && chmod 1777 .tmp/image/root/tmp && chmod 0700 .tmp/image/data
	@find .tmp/image -exec touch -h -d @$(SOURCE_DATE_EPOCH) {} +
	@docker build -q -t $(IMAGE) \
		--build-arg VERSION=$$(git describe --tags --always --dirty 2>/dev/null || echo devel) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		--build-arg CREATED=$$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ) . >/dev/null
	@docker image inspect -f '$(IMAGE) {{.ID}} {{.Size}}' $(IMAGE) | awk '{printf "%s  %s  %.1f MB\n", $$1, substr($$2, 8, 12), $$3 / 1e6}'

.PHONY: image-debug
image-debug: $(BIN)/dlv ## Build the container image IMAGE with a debugger around the process
	@$(MAKE) --no-print-directory image IMAGE_LDFLAGS= IMAGE_GCFLAGS='all=-N -l'
	@mkdir -p .tmp/image/debug && cp $(BIN)/dlv .tmp/image/debug/
	@docker build -q -t $(IMAGE) -f Dockerfile.debug --build-arg BASE=$(IMAGE) . >/dev/null

# Its own cluster, which is removed afterwards; KEEP=1 keeps it, RUN names some of the tests.
RUN ?= .
.PHONY: e2e
e2e: ## Test on a kind cluster of its own; needs docker, kind, kubectl, helm and skaffold (KIND_NODE_IMAGE, KIND_METRICS_SERVER, KEEP, RUN)
	@cd test/e2e && E2E=1 go test -count=1 -timeout 60m -v -run '$(RUN)' ./...
