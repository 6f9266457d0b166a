package event

import _ "embed"

// SchemaID names the JSON Schema of events; it is each event's dataschema. A
// change that breaks readers makes a new one.
const SchemaID = "https://github.com/lookout-video/lookout/raw/main/event/schema/event.v1.json"

// DeltaSchemaID names the JSON Schema of deltas.
const DeltaSchemaID = "https://github.com/lookout-video/lookout/raw/main/event/schema/delta.v1.json"

//go:embed schema/event.v1.json
var eventSchema []byte

//go:embed schema/delta.v1.json
var deltaSchema []byte

// Schema is the JSON Schema (draft 2020-12) of an Event.
func Schema() []byte { return append([]byte(nil), eventSchema...) }

// DeltaSchema is the JSON Schema (draft 2020-12) of a Delta.
func DeltaSchema() []byte { return append([]byte(nil), deltaSchema...) }
