package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/pipeline/server"
)

func eventsCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "events",
		Short: "Reads events from Redis, and shows their schema",
		Example: `  lookout events tail --redis redis://127.0.0.1:6379/0
  lookout events replay --stream yard --since 1h --json
  lookout events schema > event.schema.json`,
		Args: cobra.NoArgs,
	}
	var url, stream string
	var asJSON bool
	c.PersistentFlags().StringVar(&url, "redis", "", "`URL` of the Redis; that of the configuration when not given")
	c.PersistentFlags().StringVar(&stream, "stream", "", "one stream's events only")
	c.PersistentFlags().BoolVar(&asJSON, "json", false, "the whole event as JSON, one a line")
	open := func() (*redis.Client, error) {
		conf, err := g.load()
		if err != nil {
			return nil, err
		}
		if url != "" {
			conf.Redis.URL = url
		}
		if conf.Redis.URL == "" && len(conf.Redis.Addrs) == 0 {
			return nil, usageError{errors.New("which Redis? Set redis.url in the configuration, or --redis URL")}
		}
		return redis.Open(server.RedisConfig(conf.Redis))
	}
	var after string
	tail := &cobra.Command{
		Use: "tail", Short: "Prints events as they come", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx := cmd.Context()
			// A server that is away is told of and waited for.
			return printEntries(ctx, cmd, client.Tail(ctx, redis.TailOptions{Stream: stream, After: after}), asJSON, true)
		},
	}
	tail.Flags().StringVar(&after, "after", "", "`id` after which to begin; 0 for all that is kept")
	var since time.Duration
	replay := &cobra.Command{
		Use: "replay", Short: "Prints past events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			defer client.Close()
			o := redis.ReplayOptions{Stream: stream}
			if since > 0 && stream != "" {
				o.From = redis.TimeID(time.Now().Add(-since)) // a camera's ids begin with the time
			}
			return printEntries(cmd.Context(), cmd, filterSince(client.Replay(cmd.Context(), o), since), asJSON, false)
		},
	}
	replay.Flags().DurationVar(&since, "since", 0, "only those of the last `time`; 0: all that are kept")
	lag := &cobra.Command{
		Use: "lag", Short: "Says how far the consumer groups are behind", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			defer client.Close()
			groups, err := client.Lag(cmd.Context(), stream)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), groups)
		},
	}
	schema := &cobra.Command{
		Use: "schema", Short: "Prints the JSON Schema of an event", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(event.Schema())
			return err
		},
	}
	c.AddCommand(tail, replay, lag, searchCommand(g, &stream, &asJSON), schema)
	return c
}

// filterSince leaves out the events that were said longer ago.
func filterSince(all iter.Seq2[redis.Entry, error], since time.Duration) iter.Seq2[redis.Entry, error] {
	if since <= 0 {
		return all
	}
	from := time.Now().Add(-since)
	return func(yield func(redis.Entry, error) bool) {
		for e, err := range all {
			if err == nil && e.Event.Time.Before(from) {
				continue
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// printEntries prints events; an error is told and, when patient or about one
// entry, gone over.
func printEntries(ctx context.Context, cmd *cobra.Command, all iter.Seq2[redis.Entry, error], asJSON, patient bool) error {
	for e, err := range all {
		switch {
		case ctx.Err() != nil:
			return nil // ended by Ctrl-C, which is how a tail ends
		case err != nil && (patient || errors.Is(err, redis.ErrEntry)):
			fmt.Fprintln(cmd.ErrOrStderr(), "lookout:", err)
		case err != nil:
			return err
		case asJSON:
			if err := printJSON(cmd.OutOrStdout(), e.Event); err != nil {
				return err
			}
		default:
			if err := printEvent(cmd.OutOrStdout(), e.Event); err != nil {
				return err
			}
		}
	}
	return nil
}

func printEvent(w io.Writer, ev *event.Event) error {
	d := ev.Data
	text := d.Text
	switch {
	case d.Status != nil:
		text = d.Status.State + " " + d.Status.Reason
	case len(d.Labels) > 0:
		text = ""
		for _, l := range d.Labels {
			if l.Probability >= 0.5 {
				text += fmt.Sprintf("%s %.2f  ", l.Name, l.Probability)
			}
		}
	}
	if d.Probability != nil {
		text = fmt.Sprintf("%s (%.3f)", text, *d.Probability)
	}
	_, err := fmt.Fprintf(w, "%s  %-12s %-11s %-6s %s\n", ev.Time.Local().Format("2006-01-02 15:04:05.0"), d.Stream, event.Kind(ev.Type), d.Phase, text)
	return err
}
