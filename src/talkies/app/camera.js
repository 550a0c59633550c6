// The camera of a picture or driving video: shown, and taken as a file.
export function openCamera(field, clip, take) {
  const find = (selector) => field.querySelector(selector);
  const open = find(".camera"), recorder = find(".recorder"), live = find(".recorder video"), button = find(".take");
  let stream = null, recording = null;
  open.hidden = !navigator.mediaDevices;  // browsers give it only to this machine's own pages and to https

  const close = () => {
    stream?.getTracks().forEach((track) => track.stop());
    stream = recording = live.srcObject = null;
    [recorder.hidden, open.hidden] = [true, false];
  };

  open.addEventListener("click", async () => {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: clip });
    } catch (error) {
      open.replaceChildren(`The camera can't be used (${error.name})`);
      return;
    }
    live.srcObject = stream;
    button.textContent = clip ? "Record" : "Take the picture";
    [recorder.hidden, open.hidden] = [false, true];
  });

  button.addEventListener("click", () => {
    if (!clip) {
      const canvas = Object.assign(document.createElement("canvas"), { width: live.videoWidth, height: live.videoHeight });
      canvas.getContext("2d").drawImage(live, 0, 0);
      canvas.toBlob((picture) => { close(); take(picture, "camera.png"); });
    } else if (recording) {
      recording.stop();
    } else {
      const parts = [];
      recording = new MediaRecorder(stream);
      recording.ondataavailable = (e) => parts.push(e.data);
      recording.onstop = () => {
        const [type] = recording.mimeType.split(";");
        close();
        take(new Blob(parts, { type }), type === "video/mp4" ? "camera.mp4" : "camera.webm");
      };
      recording.start();
      button.textContent = "Stop";
    }
  });

  find(".leave").addEventListener("click", () => { if (recording) recording.onstop = null; close(); });
}
