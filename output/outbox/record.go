package outbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/lookout-video/lookout/event"
)

// A record is what the file holds of one event:
//
//	byte     version, 1
//	uint32   CRC-32C of all that follows, big endian
//	varint   when it was put in, Unix nanoseconds
//	uvarint  length of the stream's name
//	bytes    the stream's name
//	bytes    the event as JSON
const recordVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("damaged record")

func encodeRecord(at time.Time, ev *event.Event) ([]byte, error) {
	js, err := json.Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("write as JSON: %w", err)
	}
	b := make([]byte, 5, 5+2*binary.MaxVarintLen64+len(ev.Data.Stream)+len(js))
	b[0] = recordVersion
	b = binary.AppendVarint(b, at.UnixNano())
	b = binary.AppendUvarint(b, uint64(len(ev.Data.Stream)))
	b = append(b, ev.Data.Stream...)
	b = append(b, js...)
	binary.BigEndian.PutUint32(b[1:], crc32.Checksum(b[5:], castagnoli))
	return b, nil
}

// decodeHeader reads all of a record but the event, whose JSON it returns.
func decodeHeader(b []byte) (at time.Time, stream string, js []byte, err error) {
	if len(b) < 5 || b[0] != recordVersion || crc32.Checksum(b[5:], castagnoli) != binary.BigEndian.Uint32(b[1:]) {
		return at, "", nil, errRecord
	}
	b = b[5:]
	ns, n := binary.Varint(b)
	if n <= 0 {
		return at, "", nil, errRecord
	}
	b = b[n:]
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return at, "", nil, errRecord
	}
	b = b[n:]
	return time.Unix(0, ns), string(b[:size]), b[size:], nil
}

func decodeRecord(b []byte) (*event.Event, error) {
	_, _, js, err := decodeHeader(b)
	if err != nil {
		return nil, err
	}
	return event.Parse(js)
}
