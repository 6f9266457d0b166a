package benchmark

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lookout-video/lookout/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// video is seven seconds of a counter.
const video = "../../ingest/testdata/counting.mp4"

// bundle is a tiny model of the embedded one's layout.
const bundle = "../../llm/testdata/half"
