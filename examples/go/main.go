// Example of a consumer group's member that reads Lookout's events from Redis.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Event is what this program needs of Lookout's event
// (`lookout events schema` prints all of it).
type Event struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data struct {
		Stream  string `json:"stream"`
		EventID string `json:"event_id"`
		Phase   string `json:"phase"`
		Text    string `json:"text"`
	} `json:"data"`
}

// handle does the work. It may get an entry again after a crash: ev.ID is the
// same then.
func handle(id string, ev Event) error {
	_, err := fmt.Printf("%s\t%s\t%s\t%s\t%s\n", id, ev.Data.Stream, ev.Type, ev.Data.Phase, ev.Data.Text)
	return err
}

func main() {
	host, _ := os.Hostname()
	url := flag.String("url", "redis://127.0.0.1:6379", "the server")
	key := flag.String("key", "lookout:events", "the stream")
	group := flag.String("group", "example", "the consumer group")
	me := flag.String("consumer", host, "this member's name, its own for each running program")
	from := flag.String("from", "$", "where a new group begins: $ now, 0 at the oldest entry")
	claimAfter := flag.Int("claim-after", 60000, "milliseconds after which a dead member's entries are taken over")
	count := flag.Int("count", 0, "end after so many entries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	opt, err := redis.ParseURL(*url)
	if err != nil {
		log.Fatal(err)
	}
	rdb := redis.NewClient(opt)
	defer rdb.Close()

	if err := rdb.XGroupCreateMkStream(ctx, *key, *group, *from).Err(); err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		log.Fatal(err)
	}
	done := 0
	work := func(entries []redis.XMessage) {
		for _, e := range entries {
			var ev Event
			js, _ := e.Values["json"].(string)
			if err := json.Unmarshal([]byte(js), &ev); err != nil {
				log.Printf("entry %s is no event: %v", e.ID, err) // acknowledged all the same, or it comes back for ever
			} else if err := handle(e.ID, ev); err != nil {
				log.Printf("entry %s: %v; it stays pending and is tried again", e.ID, err)
				continue
			}
			if err := rdb.XAck(ctx, *key, *group, e.ID).Err(); err != nil {
				log.Print(err)
			}
			done++
		}
	}
	enough := func() bool { return *count > 0 && done >= *count }

	var claimed time.Time
	for ctx.Err() == nil && !enough() {
		idle := time.Duration(*claimAfter) * time.Millisecond
		if time.Since(claimed) > idle/2 { // what a dead member left
			claimed = time.Now()
			for cursor := "0-0"; ; {
				entries, next, err := rdb.XAutoClaim(ctx, &redis.XAutoClaimArgs{Stream: *key, Group: *group, Consumer: *me, MinIdle: idle, Start: cursor, Count: 100}).Result()
				if err != nil {
					log.Print(err)
					break
				}
				work(entries)
				if cursor = next; cursor == "0-0" {
					break
				}
			}
			if enough() {
				break
			}
		}
		res, err := rdb.XReadGroup(ctx, &redis.XReadGroupArgs{Group: *group, Consumer: *me, Streams: []string{*key, ">"}, Count: 100, Block: min(idle/2+time.Millisecond, 5*time.Second)}).Result()
		switch {
		case errors.Is(err, redis.Nil): // nothing came
		case err != nil && ctx.Err() == nil:
			log.Print(err) // Redis is away: go-redis connects again
			time.Sleep(time.Second)
		case err == nil:
			work(res[0].Messages)
		}
	}
}
