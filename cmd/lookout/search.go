package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/output/web"
	"github.com/lookout-video/lookout/pipeline"
	"github.com/lookout-video/lookout/pipeline/engine"
	"github.com/lookout-video/lookout/search"
)

func searchCommand(g *global, stream *string, asJSON *bool) *cobra.Command {
	k := 10
	c := &cobra.Command{
		Use:   "search TEXT",
		Short: "Finds past events by their words and pictures",
		Long: `Finds past events by their words and by the embedding of their pictures. A running
Lookout (web.listen) is asked; without one its index in state_dir is read.`,
		Example: `  lookout events search "red van"
  lookout events search "somebody drops a box" --stream yard -k 3 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := g.load()
			if err != nil {
				return err
			}
			hits, err := searchServer(cmd.Context(), conf, args[0], *stream, k)
			if errors.Is(err, syscall.ECONNREFUSED) {
				hits, err = searchIndex(cmd.Context(), g, conf, args[0], *stream, k)
			}
			if err != nil {
				return err
			}
			if len(hits) == 0 && !*asJSON {
				fmt.Fprintln(cmd.ErrOrStderr(), "lookout: nothing was found")
			}
			for _, h := range hits {
				if *asJSON {
					err = printJSON(cmd.OutOrStdout(), h)
				} else {
					err = printEvent(cmd.OutOrStdout(), h.Event)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().IntVarP(&k, "count", "k", k, "`how many` at most")
	return c
}

// searchServer asks the Lookout that runs with this configuration.
func searchServer(ctx context.Context, conf configs.Config, text, stream string, k int) ([]web.Hit, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	scheme, client := "http", http.DefaultClient
	if conf.Web.TLSCert != "" {
		scheme, client = "https", trusting(conf)
		defer client.CloseIdleConnections()
	}
	q := url.Values{"q": {text}, "k": {strconv.Itoa(k)}}
	if stream != "" {
		q.Set("stream", stream)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+conf.Web.Listen+"/api/search?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if conf.Web.Token != "" {
		req.Header.Set("Authorization", "Bearer "+conf.Web.Token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("the Lookout at %s answers %s: %s", conf.Web.Listen, resp.Status, strings.TrimSpace(string(b)))
	}
	var answer struct {
		Hits []web.Hit `json:"hits"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the answer of the Lookout at %s: %w", conf.Web.Listen, err)
	}
	return answer.Hits, nil
}

// trusting is a client that knows the server by its very certificate, made by
// Lookout or not: it runs on this machine.
func trusting(conf configs.Config) *http.Client {
	path := conf.Web.TLSCert
	if path == "self" {
		path = filepath.Join(conf.StateDir, "web-cert.pem")
	}
	var want *x509.Certificate
	if pemBytes, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(pemBytes); block != nil {
			want, _ = x509.ParseCertificate(block.Bytes)
		}
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // its name is not the address that it listens on; it is compared as a whole
		VerifyConnection: func(s tls.ConnectionState) error {
			if want == nil || !s.PeerCertificates[0].Equal(want) {
				return fmt.Errorf("the server at %s has another certificate than %s", conf.Web.Listen, path)
			}
			return nil
		},
	}
	return &http.Client{Transport: t}
}

// searchIndex reads the index of a Lookout that does not run.
func searchIndex(ctx context.Context, g *global, conf configs.Config, text, stream string, k int) (hits []web.Hit, err error) {
	err = withEngine(ctx, g, func(ctx context.Context, e *engine.Engine, _ *pipeline.Batcher, log *slog.Logger) error {
		x, err := search.Open(search.Config{Path: filepath.Join(conf.StateDir, "search.db"), Model: e.Models.Info.Hash, LookOnly: true, MaxEvents: conf.Search.MaxEvents, MaxAge: conf.Search.MaxAge, Log: log})
		if err != nil {
			return err
		}
		defer x.Close()
		q := search.Query{Text: text, Stream: stream, K: k}
		if e.Models.Labeler != nil {
			if q.Image, err = e.Models.Labeler.Text(ctx, text); err != nil {
				return err
			}
		}
		found, err := x.Search(q)
		for _, h := range found {
			hits = append(hits, web.Hit{Event: h.Event, Score: h.Score})
		}
		return err
	})
	return hits, err
}
