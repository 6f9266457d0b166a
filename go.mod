module github.com/lookout-video/lookout

go 1.26.0

require (
	github.com/asticode/go-astiav v0.39.0
	go.uber.org/goleak v1.3.0
)

require github.com/asticode/go-astikit v0.42.0 // indirect
