package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/ingest"
	"github.com/lookout-video/lookout/pipeline/engine"
	"github.com/lookout-video/lookout/pipeline/server"
)

func runCommand(g *global) *cobra.Command {
	var redis, listen string
	var until bool
	c := &cobra.Command{
		Use:   "run [SOURCE...]",
		Short: "Watches many streams: page, API, Redis and the other sinks",
		Long: `Watches many streams and serves the page, its API and the sinks.

Streams come from the configuration; sources on the command line are added to
them under the names stream1, stream2 and so on. Streams can also be added,
changed and removed on the page or by the API while it runs; that is kept.`,
		Example: `  lookout config print > lookout.yaml     # then edit it
  lookout run -c lookout.yaml
  lookout run rtsp://user:pass@camera/stream --redis redis://127.0.0.1:6379/0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := g.load()
			if err != nil {
				return err
			}
			for i, url := range args {
				s := source(url)
				s.Name = fmt.Sprintf("stream%d", i+1)
				conf.Streams = append(conf.Streams, s)
			}
			if redis != "" {
				conf.Redis.URL = redis
			}
			if listen != "" {
				conf.Web.Listen = listen
			}
			if err := conf.Validate(); err != nil {
				return usageError{err}
			}
			if until {
				if err := present(conf.Streams); err != nil {
					return usageError{err}
				}
			}
			log := logger(conf.Log)
			e, err := engine.Open(conf, log)
			if err != nil {
				return err
			}
			s, err := server.New(server.Options{Config: conf, Models: e.Models, Open: e.Opener(log), Sources: e, Load: e.Load, Log: log, UntilDone: until, Version: version()})
			if err != nil {
				return errors.Join(err, e.Close())
			}
			if s.URL() != "" {
				log.Info("the page is open", "address", s.URL(), "streams", len(conf.Streams), "model", e.Models.Info.Name, "device", e.Runtime.Device())
			}
			return errors.Join(s.Run(cmd.Context()), s.Close(), e.Close())
		},
	}
	c.Flags().StringVar(&redis, "redis", "", "`URL` of the Redis that gets the events")
	c.Flags().StringVar(&listen, "listen", "", "`address` of the page")
	c.Flags().BoolVar(&until, "until-done", false, "end when every stream has ended")
	return c
}

// present says which file is not there. A service waits for it, as it does for
// a camera; --until-done would wait for ever.
func present(streams []configs.Stream) error {
	var errs []error
	for _, s := range streams {
		if !ingest.IsFile(s.URL) {
			continue
		}
		if _, err := os.Stat(s.URL); err != nil {
			errs = append(errs, fmt.Errorf("%s: --until-done would wait for its file for ever: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}
