package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/lookout-video/lookout/configs"
	"github.com/lookout-video/lookout/event"
	"github.com/lookout-video/lookout/output/redis"
	"github.com/lookout-video/lookout/pipeline/server"
)

func eventsCommand(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "events",
		Short: "Reads events from Redis, searches past ones, and shows their schema",
		Example: `  lookout events tail --redis redis://127.0.0.1:6379/0
  lookout events replay --stream yard --since 1h --json
  lookout events search "red van"
  lookout events schema > event.schema.json`,
		Args: cobra.NoArgs,
	}
	var url, prefix, stream string
	var asJSON bool
	c.PersistentFlags().StringVar(&url, "redis", "", "`URL` of the Redis; that of the configuration when not given")
	c.PersistentFlags().StringVar(&prefix, "prefix", "", "first `part` of every key; that of the configuration when not given")
	c.PersistentFlags().StringVar(&stream, "stream", "", "one stream's events only")
	c.PersistentFlags().BoolVar(&asJSON, "json", false, "the whole event as JSON, one a line")
	open := func() (*redis.Client, error) {
		conf, err := g.load()
		if err != nil {
			return nil, err
		}
		if url != "" { // that server, and no Cluster or Sentinels that the file may name
			r := configs.Redis{URL: url, Prefix: conf.Redis.Prefix, Username: conf.Redis.Username, Password: conf.Redis.Password,
				CAFile: conf.Redis.CAFile, CertFile: conf.Redis.CertFile, KeyFile: conf.Redis.KeyFile, ServerName: conf.Redis.ServerName}
			if !strings.HasPrefix(url, "rediss:") {
				r.CAFile, r.CertFile, r.KeyFile, r.ServerName = "", "", "", ""
			}
			conf.Redis = r
		}
		if prefix != "" {
			conf.Redis.Prefix = prefix
		}
		if conf.Redis.URL == "" && len(conf.Redis.Addrs) == 0 {
			return nil, usageError{errors.New("which Redis? Set redis.url in the configuration, or --redis URL")}
		}
		return redis.Open(server.RedisConfig(conf.Redis))
	}
	// silent tells who sees nothing where nothing is.
	silent := func(cmd *cobra.Command, client *redis.Client, then string) {
		key := client.Config().AllKey()
		if stream != "" {
			key = client.Config().EventsKey(stream)
		}
		if n, err := client.Redis().Exists(cmd.Context(), key).Result(); err == nil && n == 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "lookout: no events in %s at %s%s (--prefix and --stream name other keys)\n", key, client.Target(), then)
		}
	}
	var after string
	var last int64
	tail := &cobra.Command{
		Use: "tail", Short: "Prints the last events, and then those that come", Args: cobra.NoArgs,
		Long: `Prints the last events, and then those that come, until Ctrl-C. A Redis that goes
away is waited for; when it is back nothing is missing.`,
		Example: `  lookout events tail --stream yard
  lookout events tail -n 0 --json | jq .data.text`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			defer client.Close()
			silent(cmd, client, " yet; waiting for some")
			ctx := cmd.Context()
			return printEntries(ctx, cmd, client.Tail(ctx, redis.TailOptions{Stream: stream, After: after, Last: last}), asJSON, true)
		},
	}
	tail.Flags().StringVar(&after, "after", "", "`id` after which to begin, as redis-cli shows it; 0 for all that is kept")
	tail.Flags().Int64VarP(&last, "last", "n", 10, "`how many` past events come first")
	var since time.Duration
	replay := &cobra.Command{
		Use: "replay", Short: "Prints past events", Args: cobra.NoArgs,
		Example: `  lookout events replay --since 1h
  lookout events replay --stream yard --json > events.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := open()
			if err != nil {
				return err
			}
			defer client.Close()
			silent(cmd, client, "")
			o := redis.ReplayOptions{Stream: stream}
			if since > 0 {
				// Ids begin with a time: in a camera's stream the event's, in that of all the
				// arrival in Redis, whose clock may be another.
				o.From = redis.TimeID(time.Now().Add(-since - time.Hour))
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
			silent(cmd, client, "")
			groups, err := client.Lag(cmd.Context(), stream)
			if err != nil {
				return err
			}
			return printLag(cmd.OutOrStdout(), groups, asJSON)
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

func printLag(w io.Writer, groups []redis.GroupLag, asJSON bool) error {
	if asJSON {
		return printJSON(w, append([]redis.GroupLag{}, groups...))
	}
	if len(groups) == 0 {
		_, err := fmt.Fprintln(w, "no consumer group reads here")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tCONSUMERS\tLAG\tPENDING\tLAST")
	for _, g := range groups {
		lag := strconv.FormatInt(g.Lag, 10)
		if g.Lag < 0 {
			lag = "unknown"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%s\n", g.Group, g.Consumers, lag, g.Pending, g.Last)
	}
	return t.Flush()
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
	if d.Prompt != nil && d.Prompt.Text != "" && d.Prompt.Text != d.Text && (ev.Type == event.TypeAnswer || ev.Type == event.TypeAlert) {
		text = d.Prompt.Text + " " + text
	}
	if d.Probability != nil {
		text = fmt.Sprintf("%s (%.3f)", text, *d.Probability)
	}
	_, err := fmt.Fprintf(w, "%s  %-12s %-11s %-6s %s\n", ev.Time.Local().Format("2006-01-02 15:04:05.0"), d.Stream, event.Kind(ev.Type), d.Phase, text)
	return err
}
