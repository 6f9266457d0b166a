#!/usr/bin/env bash
# Installs or builds what Lookout needs and this machine lacks: a C compiler, FFmpeg 7.1, redis-server. Everything that is
# downloaded or built goes to $LOOKOUT_CACHE (default ~/.cache/lookout), verified by sha256, and is kept for the next clone.
# Usage: scripts/deps.sh        install and build
#        scripts/deps.sh env    print the exports that plain go commands need
set -euo pipefail

CACHE=${LOOKOUT_CACHE:-$HOME/.cache/lookout}
FFMPEG_VERSION=7.1.5
FFMPEG_SHA256=de668509caf9e35e3cd162473441fdb29538c6d96ed080292b3cf9e6fc5d558f
FFMPEG_URL=https://ffmpeg.org/releases/ffmpeg-$FFMPEG_VERSION.tar.xz

# Only what cameras and browsers use: a smaller parser surface is a safer one.
FFMPEG_CONFIG=(
  --enable-shared --disable-static --disable-programs --enable-ffmpeg --enable-ffprobe --disable-doc --disable-debug
  --disable-everything --disable-autodetect --enable-version3 --enable-openssl --enable-libvpx --enable-libdav1d --enable-zlib
  --enable-decoder=h264,hevc,vp8,vp9,libdav1d,mjpeg,mpeg4,mpeg2video,mpeg1video,rawvideo,png,wrapped_avframe
  --enable-encoder=libvpx_vp8,mjpeg,rawvideo,wrapped_avframe,png,mpeg4,mpeg2video
  --enable-parser=h264,hevc,vp8,vp9,av1,mjpeg,mpeg4video,mpegvideo,png
  --enable-demuxer=mov,matroska,rtsp,rtp,sdp,hls,mpegts,mpegps,mpjpeg,mjpeg,flv,avi,ivf,h264,hevc,m4v,image2,asf,mpegvideo,obu,wav
  --enable-muxer=mp4,matroska,webm,mpegts,rtsp,rtp,hls,mpjpeg,mjpeg,ivf,image2,rawvideo,null,avi,h264,framemd5
  --enable-protocol=file,pipe,tcp,udp,rtp,http,https,tls,hls,crypto,httpproxy
  --enable-indev=v4l2,lavfi
  --enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,extract_extradata,vp9_superframe,vp9_superframe_split,mpeg4_unpack_bframes,av1_frame_split,dump_extra,null,noise
  --enable-filter=scale,format,fps,buffer,buffersink,transpose,hflip,vflip,null,crop,pad,setpts,setparams,hwdownload,hwupload,hwmap,testsrc,testsrc2,color,smptebars,nullsrc
)
KEY=$( (printf '%s\n' "$FFMPEG_SHA256" "${FFMPEG_CONFIG[@]}"; uname -m) | sha256sum | cut -c1-12)
PREFIX=$CACHE/ffmpeg-$FFMPEG_VERSION-$KEY

system_ffmpeg() { pkg-config --exists 'libavcodec >= 61.19' 'libavcodec < 62' 'libavformat < 62' libavdevice libavfilter libswscale libswresample 2>/dev/null; }

if [ "${1:-}" = env ]; then
  if [ -e "$PREFIX/ready" ]; then
    printf "export PKG_CONFIG_PATH='%s/lib/pkgconfig'\nexport CGO_LDFLAGS='-O2 -g -Wl,--disable-new-dtags -Wl,-rpath,%s/lib'\nexport PATH='%s/bin':\"\$PATH\"\n" "$PREFIX" "$PREFIX" "$PREFIX"
  fi
  printf 'export CGO_ENABLED=1\n'
  exit
fi

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# 1. Packages of the system.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
header() { [ -e "/usr/include/$1" ] || [ -e "/usr/include/$(uname -m)-linux-gnu/$1" ] || missing+=("$2"); }
need gcc gcc; need g++ g++; need make make; need pkg-config pkg-config; need git git; need curl curl; need xz xz-utils
need redis-server redis-server
header stdio.h libc6-dev
if ! system_ffmpeg && [ ! -e "$PREFIX/ready" ]; then
  need nasm nasm
  header vpx/vp8cx.h libvpx-dev; header dav1d/dav1d.h libdav1d-dev; header openssl/ssl.h libssl-dev; header zlib.h zlib1g-dev
fi
if [ ${#missing[@]} -gt 0 ]; then
  cmd="apt-get update && apt-get install -y --no-install-recommends ca-certificates ${missing[*]}"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends ca-certificates "${missing[@]}" >/dev/null
  else
    die "missing ${missing[*]}; run: sudo sh -c '$cmd'"
  fi
fi
command -v go >/dev/null || die "Go is missing; install Go 1.26 or newer from https://go.dev/dl/ and put it on PATH"

# 2. FFmpeg.
if system_ffmpeg && [ ! -e "$PREFIX/ready" ]; then
  say "FFmpeg $(pkg-config --modversion libavcodec) (libavcodec) of the system fits"
  exit
fi
if [ -e "$PREFIX/ready" ]; then
  exit
fi
mkdir -p "$CACHE"
exec 9>"$CACHE/deps.lock"
flock 9  # two clones may build at once; the second waits and finds it done
[ -e "$PREFIX/ready" ] && exit
work=$CACHE/build.$$
trap 'rm -rf "$work"' EXIT
rm -rf "$work"; mkdir -p "$work"
tarball=$CACHE/ffmpeg-$FFMPEG_VERSION.tar.xz
fits() { [ -e "$1" ] && echo "$FFMPEG_SHA256  $1" | sha256sum -c --quiet - >/dev/null 2>&1; }

from_release_page() { curl -fsSL --connect-timeout 10 --max-time 600 -o "$work/ff.tar.xz" "$FFMPEG_URL"; }
# Debian 13 carries the same tarball; ask the mirror this machine already uses.
from_apt_source() {
  command -v apt-get >/dev/null || return 1
  local uri apt=$work/apt
  uri=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | grep -v security | sort -u | head -1)
  [ -n "$uri" ] || return 1
  mkdir -p "$apt/lists/partial"
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" >"$apt/sources.list"
  local opt=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=")
  (cd "$work" && apt-get "${opt[@]}" update && apt-get "${opt[@]}" source --download-only ffmpeg) >/dev/null 2>&1 || return 1
  mv "$work/ffmpeg_$FFMPEG_VERSION.orig.tar.xz" "$work/ff.tar.xz"
}
if ! fits "$tarball"; then
  for source in from_release_page from_apt_source; do
    say "FFmpeg $FFMPEG_VERSION source: trying ${source#from_}"
    if $source 2>/dev/null && fits "$work/ff.tar.xz"; then
      mv "$work/ff.tar.xz" "$tarball"
      say "FFmpeg source: got it from ${source#from_}, sha256 right"
      break
    fi
  done
  fits "$tarball" || die "no source of FFmpeg $FFMPEG_VERSION could be reached; put $FFMPEG_URL at $tarball and run this again"
fi
tar -C "$work" -xf "$tarball"
cd "$work/ffmpeg-$FFMPEG_VERSION"
say "configuring FFmpeg"
./configure --prefix="$PREFIX" --enable-rpath "${FFMPEG_CONFIG[@]}" >"$CACHE/ffmpeg-configure.log" 2>&1 ||
  die "FFmpeg's configure failed; see $CACHE/ffmpeg-configure.log"
touch "$CACHE/ffmpeg-make.log"
total=$(make -n 2>/dev/null | grep -cE '(CC|X86ASM)\b' || true)
SECONDS=0
make -j"$(nproc)" >"$CACHE/ffmpeg-make.log" 2>&1 & build=$!
while kill -0 $build 2>/dev/null; do
  n=$(grep -cE '^(CC|X86ASM)' "$CACHE/ffmpeg-make.log" || true)
  if [ -t 2 ]; then printf '\rdeps: building FFmpeg %4d/%s objects, %ds ' "$n" "$total" "$SECONDS" >&2; sleep 1
  else [ $((SECONDS % 30)) -lt 5 ] && say "building FFmpeg, $n/$total objects, ${SECONDS}s"; sleep 5; fi
done
[ -t 2 ] && echo >&2
wait $build || die "building FFmpeg failed; see $CACHE/ffmpeg-make.log"
make install DESTDIR="$work/root" >>"$CACHE/ffmpeg-make.log" 2>&1
touch "$work/root$PREFIX/ready"
rm -rf "$PREFIX"
mv "$work/root$PREFIX" "$PREFIX"
say "FFmpeg $FFMPEG_VERSION built in ${SECONDS}s: $PREFIX"
