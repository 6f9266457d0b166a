module github.com/lookout-video/lookout

go 1.26.0
